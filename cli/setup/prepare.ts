/** From a fresh checkout to one that can run machines: the steps quickstart and test share. */
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { z } from "zod";
import { BUN, CHECKOUT } from "../paths.ts";
import type { Steps } from "../progress.ts";
import { installPackages, type Purpose } from "./packages.ts";
import { mustRun } from "./process.ts";

export const SETUP_STEPS = 3;

/** Idempotent; the second run only looks. Throws what the failing step says. */
export async function setUp(
  steps: Steps,
  purposes: Purpose[] = ["host", "quickstart", "test"],
  signal?: AbortSignal,
): Promise<void> {
  await steps.step("Debian packages", async () => {
    const names = await installPackages(purposes, signal);
    return {
      value: null,
      note: names.length === 0 ? "all there" : `installed ${names.join(" ")}`,
    };
  });
  await steps.step("native parts", async () => {
    await bun("build the native parts", ["native/build.ts"], signal);
    return { value: null, note: "built" };
  });
  await steps.step("guest kernel", async () => {
    const printed = await bun("make the guest kernel", ["agent/kernel/main.ts", "--print"], signal);
    const parsed = z.object({ key: z.string() }).safeParse(JSON.parse(printed));
    if (!parsed.success)
      throw new LvError("INTERNAL", `The kernel maker printed "${printed.slice(0, 200)}"`);
    return { value: null, note: `package ${parsed.data.key}` };
  });
}

/** A program of the checkout, quiet unless it fails; returns its standard output. */
export async function bun(what: string, words: string[], signal?: AbortSignal): Promise<string> {
  const [file = "", ...args] = words;
  return mustRun(what, [BUN, "--no-env-file", join(CHECKOUT, file), ...args], {
    cwd: CHECKOUT,
    env: { ...process.env, PATH: toolPath() },
    ...(signal ? { signal } : {}),
  });
}

/** The pinned tools of the checkout come before those of the machine. */
export function toolPath(): string {
  return `${join(CHECKOUT, "node_modules", ".bin")}:${process.env["PATH"] ?? ""}`;
}
