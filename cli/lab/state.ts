/** What is known of a lab, in <cache>/lab/<name>.json: from QEMU's start to its end. */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { LvError } from "../../proto/errors.ts";

const LabState = z.object({
  name: z.string(),
  pid: z.int(),
  startTime: z.int(),
  /** Sockets and logs; short, because unix socket paths end at 107 bytes. */
  runDir: z.string(),
  diskPath: z.string(),
  cpus: z.int(),
  memoryMib: z.int(),
  /** QEMU's start to the first command; null = it has not answered yet. */
  bootMs: z.int().nullable(),
  /** Who boots it; a lab that has not answered and whose owner is gone is a leftover. */
  owner: z.object({ pid: z.int(), startTime: z.int() }),
});
export type LabState = z.infer<typeof LabState>;

const NAME = /^[a-z0-9][a-z0-9-]{0,30}$/;

/** <cache>/lab/<name>.json. Throws BAD_REQUEST on a name that is not a plain word. */
export function statePath(labDir: string, name: string): string {
  if (!NAME.test(name))
    throw new LvError("BAD_REQUEST", `"${name}" is no lab name: use a-z, 0-9 and hyphens`);
  return join(labDir, `${name}.json`);
}

/** null = no such lab was left up. */
export function readState(labDir: string, name: string): LabState | null {
  const path = statePath(labDir, name);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return null;
  }
  const parsed = LabState.safeParse(JSON.parse(text));
  if (!parsed.success)
    throw new LvError("INTERNAL", `${path} is not a lab's state: remove it and try again`);
  return parsed.data;
}

export function writeState(labDir: string, state: LabState): void {
  const path = statePath(labDir, state.name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.new`, JSON.stringify(state));
  renameSync(`${path}.new`, path);
}

export function removeState(labDir: string, name: string): void {
  rmSync(statePath(labDir, name), { force: true });
}
