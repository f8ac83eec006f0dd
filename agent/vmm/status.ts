/**
 * status.json: replaced atomically at each change, before the change is announced.
 * It is the last word on how a run ended, so it is written even when the disk is in
 * trouble for everything else: one small file, and the old one stays on failure.
 */
import { readText, replaceText } from "../../lib/libc.ts";
import type { VmmStatus } from "../../proto/vmm.ts";

export function writeStatus(path: string, status: VmmStatus): void {
  replaceText(path, `${JSON.stringify(status)}\n`);
}

/** What the machine is called where nothing else says it: we work in its directory. */
export const directoryName = (): string => {
  const path = process.cwd();
  return path.slice(path.lastIndexOf("/") + 1);
};

/** Our id as the agent sees it: in a jail we are process 1, and the jail says what else. */
export function hostPid(told = process.env["LEVERET_HOST_PID"]): number {
  return told === undefined ? process.pid : Number(told);
}

/**
 * Field 22 of /proc/self/stat, clock ticks since boot. The command name may hold
 * spaces and parentheses, so counting starts after its last ")".
 */
export function processStartTime(stat = readText("/proc/self/stat")): number {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[22 - 3]);
}
