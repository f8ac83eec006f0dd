/** Children of the command line: run to the end, or kept and stopped by pid, never by name. */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { systemClock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";

/** Names a process for good: a pid alone may be someone else's by now. */
export type ProcessName = { pid: number; startTime: number };

const CAPTURE_BYTES = 16 << 20;

export type RunOptions = {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  signal?: AbortSignal;
  /** Where the child's lines go while it runs: standard error of ours, or nowhere. */
  stderr?: "inherit" | "pipe";
  input?: string;
};

export type RunResult = { code: number; stdout: string; stderr: string };

/** Runs a program to its end. Throws TOOL_MISSING when it is not installed; a code is not an error. */
export async function run(argv: string[], options: RunOptions = {}): Promise<RunResult> {
  const [program = "", ...args] = argv;
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: options.env ?? process.env,
    signal: options.signal,
    stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", options.stderr ?? "pipe"],
  });
  child.stdin?.end(options.input);
  const exited = new Promise<number>((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT")
        reject(
          new LvError("TOOL_MISSING", `"${program}" is not installed: ./lev doctor says more`),
        );
      else reject(error);
    });
    child.once("close", (code) => resolve(code ?? 1));
  });
  const [code, stdout, stderr] = await Promise.all([
    exited,
    capture(child.stdout),
    capture(child.stderr),
  ]);
  return { code, stdout, stderr };
}

/** As `run`, and throws TOOL_MISSING-free INTERNAL text with the last lines when the code is not 0. */
export async function mustRun(
  what: string,
  argv: string[],
  options: RunOptions = {},
): Promise<string> {
  const result = await run(argv, options);
  if (result.code !== 0)
    throw new LvError(
      "INTERNAL",
      `Cannot ${what}: \`${argv.join(" ")}\` ended with ${result.code}${tail(result.stderr || result.stdout)}`,
    );
  return result.stdout;
}

/** The last lines of a text, as the end of a message. */
export function tail(text: string, lines = 8): string {
  const kept = text.trimEnd().split("\n").slice(-lines).join("\n  ");
  return kept === "" ? "" : `:\n  ${kept}`;
}

async function capture(source: AsyncIterable<Buffer> | null): Promise<string> {
  if (source === null) return "";
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes <= CAPTURE_BYTES) chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** Field 22 of /proc/<pid>/stat, or null when there is no such process (a zombie counts as none). */
export function startTimeOf(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces and parentheses itself.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? null : Number(fields[19]);
  } catch {
    return null;
  }
}

export function nameProcess(pid: number): ProcessName {
  return { pid, startTime: startTimeOf(pid) ?? 0 };
}

export function isAlive(name: ProcessName): boolean {
  return startTimeOf(name.pid) === name.startTime;
}

/** SIGTERM, then SIGKILL after `graceMs`; returns when the process is gone. Safe twice. */
export async function stopProcess(name: ProcessName, graceMs: number): Promise<void> {
  if (!isAlive(name)) return;
  process.kill(name.pid, "SIGTERM");
  if (await waitGone(name, graceMs)) return;
  process.kill(name.pid, "SIGKILL");
  if (!(await waitGone(name, 10_000)))
    throw new LvError("TIMEOUT", `Process ${name.pid} does not end, even killed`);
}

/** Polls: a process that is not our child cannot be waited for. */
async function waitGone(name: ProcessName, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (isAlive(name)) {
    if (Date.now() > deadline) return false;
    await systemClock.sleep(20);
  }
  return true;
}
