/** A client that a generator makes of /openapi.json does the whole life of a machine. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AUTHORIZATION, TEST_TOKEN } from "../kit/token.ts";
import { World } from "../kit/world.ts";

setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..", "..");

async function run(dir: string, argv: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(argv, {
    cwd: dir,
    env: { PATH: process.env["PATH"] ?? "", HOME: dir, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, stdout, stderr] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code, stdout, stderr };
}

test("types are generated, a program against them compiles, and it runs", async () => {
  const dir = mkdtempSync(join(tmpdir(), "leveret-openapi-"));
  try {
    await using world = await World.create();
    const { httpUrl } = world.plane;
    const document = await fetch(`${httpUrl}/openapi.json`, { headers: AUTHORIZATION });
    writeFileSync(join(dir, "openapi.json"), await document.text());
    symlinkSync(join(ROOT, "node_modules"), join(dir, "node_modules"));
    copyFileSync(join(import.meta.dir, "kit", "life.ts.txt"), join(dir, "life.ts"));
    writeFileSync(join(dir, "package.json"), '{"type":"module"}');
    writeFileSync(
      join(dir, "tsconfig.json"),
      JSON.stringify({ extends: join(ROOT, "tsconfig.json"), include: ["life.ts"] }),
    );
    const bun = process.execPath;
    const generator = join(ROOT, "node_modules", "openapi-typescript", "bin", "cli.js");
    const made = await run(dir, [
      bun,
      generator,
      "openapi.json",
      "-o",
      "openapi.d.ts",
      // One shape is asked and answered: what has a default may be left out when asking.
      "--default-non-nullable=false",
    ]);
    expect([made.code, made.stderr]).toEqual([0, expect.any(String)]);
    const checked = await run(dir, [bun, "check", "--no-script"]);
    expect([checked.code, checked.stdout + checked.stderr]).toEqual([0, expect.any(String)]);
    const env = { LEVERET_URL: httpUrl, LEVERET_TOKEN: TEST_TOKEN };
    const lived = await run(dir, [bun, "life.ts"], env);
    expect([lived.code, lived.stderr]).toEqual([0, ""]);
    expect(JSON.parse(lived.stdout)).toEqual([
      "create starting",
      "wait started",
      "list 1",
      "events create",
      "stop stopping",
      "wait stopped",
      "patch stopped",
      "env 1",
      "start starting",
      "wait started",
      "refused VERSION_MISMATCH",
      "delete destroying",
      "wait destroyed",
    ]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
