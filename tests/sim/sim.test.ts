/**
 * Two processes of a thousand seeds each (`bun run sim` takes as many as asked), and the
 * same for bugs that were planted: a simulator that finds nothing in a broken fleet proves
 * nothing about a whole one.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { PLANTS } from "./plants.ts";

setDefaultTimeout(600_000);

const MAIN = join(import.meta.dir, "main.ts");

async function sim(...args: string[]): Promise<{ code: number; output: string }> {
  const child = Bun.spawn([process.execPath, MAIN, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [output, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, output: code === 1 && output === "" ? errors : output };
}

test("2,000 seeds break no invariant", async () => {
  const { code, output } = await sim("--seeds", "2000", "--jobs", "2");
  expect(output).toMatch(/^2000 seeds from 1, \d+ steps, .* 0 failed$/m);
  expect(code).toBe(0);
});

test("a seed always takes the same steps", async () => {
  const runs = await Promise.all([1, 2].map(() => sim("--from", "77", "--seeds", "20")));
  const steps = runs.map(({ output }) => /(\d+) steps/.exec(output)?.[1]);
  expect(steps[0]).toBeDefined();
  expect(steps[1]).toBe(steps[0]);
});

for (const plant of Object.keys(PLANTS))
  test(`a planted bug (${plant}) is found within 1,000 seeds, and the seed replays it`, async () => {
    const found = await sim("--plant", plant, "--seeds", "1000", "--stop-at-first");
    expect(found.code, found.output).toBe(1);
    const seed = /^FAIL seed (\d+): /m.exec(found.output)?.[1];
    expect(seed).toBeDefined();
    const again = await sim("--plant", plant, "--seeds", "1", "--from", String(seed));
    expect(again.output).toContain(`FAIL seed ${seed}: `);
    expect(found.output).toContain(again.output.split("\n")[0] ?? "-");
  });
