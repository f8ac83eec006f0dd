/**
 * What the guest runs: the machine's wishes over the image's configuration, by the
 * rules of OCI image-spec "config.md" and Docker: an entrypoint of the machine drops
 * the image's CMD as well, a cmd replaces only CMD.
 */
import { constants } from "node:os";
import { posix } from "node:path";
import { LvError } from "../../proto/errors.ts";
import type { MachineSpec } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { GuestProcess } from "../../proto/vmm.ts";
import type { ImageConfig } from "../images/types.ts";

const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGTERM = 15;
/** Of the guest's libc: 32 and 33 are taken by threads. */
const SIGRTMIN = 34;
const SIGNAL_MAX = 64;

export type ProcessWishes = Pick<
  MachineSpec,
  "image" | "env" | "entrypoint" | "hasEntrypoint" | "cmd" | "hasCmd" | "workingDir" | "user"
>;

/** Throws EXEC_FAILED when there is nothing to run. */
export function buildProcess(spec: ProcessWishes, image: ImageConfig): GuestProcess {
  const entrypoint = spec.hasEntrypoint ? spec.entrypoint : (image.entrypoint ?? []);
  const imageCmd = spec.hasEntrypoint ? [] : (image.cmd ?? []);
  const argv = [...entrypoint, ...(spec.hasCmd ? spec.cmd : imageCmd)];
  if (argv.length === 0)
    throw new LvError(
      "EXEC_FAILED",
      `Image "${spec.image}" has neither ENTRYPOINT nor CMD: name a command to run`,
    );
  return {
    argv,
    env: mergeEnv(image.env, spec.env),
    cwd: posix.resolve("/", spec.workingDir || image.workingDir),
    user: spec.user || image.user,
    stopSignal: parseSignal(image.stopSignal),
  };
}

function mergeEnv(image: string[], machine: Record<string, string>): string[] {
  const merged = new Map([["PATH", DEFAULT_PATH]]);
  for (const entry of image) {
    const at = entry.indexOf("=");
    if (at > 0) merged.set(entry.slice(0, at), entry.slice(at + 1));
  }
  for (const [key, value] of Object.entries(machine)) merged.set(key, value);
  return [...merged].map(([key, value]) => `${key}=${value}`);
}

/** "SIGTERM", "TERM", "15", "SIGRTMIN+3"; what is none of these is SIGTERM. */
export function parseSignal(text: string): number {
  const name = text.trim().toUpperCase().replace(/^SIG/, "");
  if (/^\d{1,2}$/.test(name)) {
    const number = Number(name);
    return number >= 1 && number <= SIGNAL_MAX ? number : SIGTERM;
  }
  const realTime = /^RT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(name);
  if (realTime !== null) {
    const base = realTime[1] === "MIN" ? SIGRTMIN : SIGNAL_MAX;
    const number = base + Number(realTime[3] ?? 0) * (realTime[2] === "-" ? -1 : 1);
    return number >= SIGRTMIN && number <= SIGNAL_MAX ? number : SIGTERM;
  }
  const known = Object.entries(constants.signals).find(([key]) => key === `SIG${name}`);
  return known?.[1] ?? SIGTERM;
}
