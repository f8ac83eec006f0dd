/**
 * Processes by name: a pid alone may be reused, a pid with its start time (field
 * 22 of /proc/<pid>/stat) names one process for good.
 */
import { readdirSync, readFileSync } from "node:fs";

export type ProcessName = { pid: number; startTime: number };

/** The start time in clock ticks since boot; null when it has ended (a zombie has). */
export function startTimeOf(pid: number): number | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    // ENOENT or ESRCH: no such process.
    return null;
  }
  // Field 2 is "(comm)", and comm may hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (fields[0] === "Z" || fields[0] === "X") return null;
  const startTime = Number(fields[19]);
  return Number.isSafeInteger(startTime) ? startTime : null;
}

export function isAlive(name: ProcessName): boolean {
  return startTimeOf(name.pid) === name.startTime;
}

/** Signals the process if it still is the named one. */
export function signalProcess(name: ProcessName, signal: NodeJS.Signals): void {
  if (!isAlive(name)) return;
  try {
    process.kill(name.pid, signal);
  } catch (error) {
    // ESRCH: it ended in between, which is what was wanted.
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

/** Every process with its arguments; those that end meanwhile are left out. */
export function listProcesses(): { pid: number; argv: string[] }[] {
  const found: { pid: number; argv: string[] }[] = [];
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const argv = readFileSync(`/proc/${entry}/cmdline`, "utf8").split("\0");
      found.push({ pid: Number(entry), argv: argv.slice(0, -1) });
    } catch {
      // It ended between the listing and the reading.
    }
  }
  return found;
}

/** Changes with every boot of the host. */
export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
