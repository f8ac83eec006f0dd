/**
 * Runs groups of checks one after the other and counts what they really did.
 *
 * `bun test` has no closing line of the form CI reads, never interrupts an
 * endless loop and ends with 0 when a test calls process.exit(0): so each group
 * runs as a process with a hard time limit, is counted from its JUnit report,
 * and a missing report or a bad exit code without a counted failure is itself a
 * failure.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const ROOT = join(import.meta.dir, "../..");

export type Count = { passed: number; failed: number; skipped: string[] };

export type Group = {
  name: string;
  timeoutMs: number;
  run: (group: Group) => Promise<Count>;
};

type Ended = { code: number; output: string; timedOut: boolean };

/** Runs a command in its own process group; kills the whole group at the limit. */
async function runCommand(argv: string[], timeoutMs: number, echo: boolean): Promise<Ended> {
  const child = Bun.spawn(argv, {
    cwd: ROOT,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    detached: true,
    env: {
      ...process.env,
      PATH: `${join(ROOT, "node_modules/.bin")}:${process.env["PATH"] ?? ""}`,
    },
  });
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    killGroup(child.pid);
  }, timeoutMs);
  const chunks: string[] = [];
  const pump = async (stream: ReadableStream<Uint8Array>): Promise<void> => {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      const text = decoder.decode(chunk, { stream: true });
      chunks.push(text);
      if (echo) process.stdout.write(text);
    }
  };
  const pumped = Promise.all([pump(child.stdout), pump(child.stderr)]);
  const code = await child.exited;
  clearTimeout(timer);
  // A grandchild that kept the pipe must not hold the suite: the group goes with its leader.
  killGroup(child.pid);
  await Promise.race([pumped, Bun.sleep(2_000)]);
  return { code, output: chunks.join(""), timedOut };
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // The group has ended already.
  }
}

/** One check that passes when the command ends with 0. Its output is shown only when it does not. */
export function command(name: string, argv: string[], timeoutMs = 120_000): Group {
  return {
    name,
    timeoutMs,
    run: async () => {
      const ended = await runCommand(argv, timeoutMs, false);
      const ok = ended.code === 0 && !ended.timedOut;
      if (!ok) process.stdout.write(`${ended.output}\n${describe(name, ended)}\n`);
      return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: [] };
    },
  };
}

/** A command that prints "ok NAME", "skip NAME: why" or "FAIL NAME" lines, one per test. */
export function lines(name: string, argv: string[], timeoutMs: number): Group {
  return {
    name,
    timeoutMs,
    run: async () => {
      const ended = await runCommand(argv, timeoutMs, false);
      const count: Count = { passed: 0, failed: 0, skipped: [] };
      for (const line of ended.output.split("\n")) {
        if (line.startsWith("ok ")) count.passed += 1;
        else if (line.startsWith("skip ")) count.skipped.push(line.slice(5));
        else if (line.startsWith("FAIL ")) count.failed += 1;
      }
      const clean = ended.code === 0 && !ended.timedOut && count.passed > 0;
      if (!clean && count.failed === 0) count.failed = 1;
      if (count.failed > 0) process.stdout.write(`${ended.output}\n${describe(name, ended)}\n`);
      return count;
    },
  };
}

/** `bun test` over the test files below the given folders. */
export function bunTest(name: string, folders: string[], timeoutMs: number): Group {
  return {
    name,
    timeoutMs,
    run: async () => {
      const files = folders.flatMap((folder) => testFiles(join(ROOT, folder))).toSorted();
      if (files.length === 0) return { passed: 0, failed: 0, skipped: [] };
      const dir = mkdtempSync(join(tmpdir(), "leveret-junit-"));
      try {
        const report = join(dir, "junit.xml");
        const argv = [
          "bun",
          "test",
          "--timeout=30000",
          "--reporter=junit",
          `--reporter-outfile=${report}`,
          ...files,
        ];
        const ended = await runCommand(argv, timeoutMs, false);
        return countReport(name, report, ended);
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    },
  };
}

function countReport(name: string, report: string, ended: Ended): Count {
  const xml = existsSync(report) ? readFileSync(report, "utf8") : "";
  const head = /<testsuites[^>]*>/.exec(xml)?.[0] ?? "";
  const attribute = (key: string): number =>
    Number(new RegExp(`\\b${key}="(\\d+)"`).exec(head)?.[1] ?? 0);
  const failed = attribute("failures") + attribute("errors");
  const skipped = [...xml.matchAll(/<testcase name="([^"]*)"[^>]*>\s*<skipped/g)].map(
    (match) => match[1] ?? "",
  );
  const passed = Math.max(0, attribute("tests") - failed - attribute("skipped"));
  const broken = head === "" || ended.timedOut || (ended.code !== 0 && failed === 0);
  if (failed > 0 || broken) process.stdout.write(`${ended.output}\n${describe(name, ended)}\n`);
  return { passed, failed: failed + (broken ? 1 : 0), skipped };
}

function describe(name: string, ended: Ended): string {
  return ended.timedOut
    ? `${name}: stopped at its time limit`
    : `${name}: ended with exit code ${ended.code}`;
}

function testFiles(path: string): string[] {
  if (!existsSync(path)) return [];
  if (statSync(path).isFile()) return [path];
  return readdirSync(path, { withFileTypes: true }).flatMap((entry) => {
    if (entry.name === "node_modules" || entry.name === "out" || entry.name === "gen") return [];
    const child = join(path, entry.name);
    if (entry.isDirectory()) return testFiles(child);
    return entry.name.endsWith(".test.ts") ? [child] : [];
  });
}

/** Runs the groups in order; prints a line for each and the counts last. Returns the exit code. */
export async function runGroups(groups: Group[]): Promise<number> {
  const total: Count = { passed: 0, failed: 0, skipped: [] };
  const started = performance.now();
  for (const group of groups) {
    const from = performance.now();
    const count = await group.run(group);
    const seconds = ((performance.now() - from) / 1000).toFixed(1);
    const skipped = count.skipped.length > 0 ? `, ${count.skipped.length} skipped` : "";
    process.stdout.write(
      `${group.name.padEnd(16)} ${String(count.passed).padStart(5)} passed, ${count.failed} failed${skipped}  ${seconds} s\n`,
    );
    for (const name of count.skipped) process.stdout.write(`  skipped: ${name}\n`);
    total.passed += count.passed;
    total.failed += count.failed;
    total.skipped.push(...count.skipped);
  }
  if (total.passed === 0 && total.failed === 0) {
    process.stdout.write("no test ran\n");
    total.failed = 1;
  }
  process.stdout.write(
    `${total.skipped.length} skipped, ${((performance.now() - started) / 1000).toFixed(0)} s in all\n`,
  );
  process.stdout.write(`${total.passed} passed, ${total.failed} failed\n`);
  return total.failed === 0 ? 0 : 1;
}
