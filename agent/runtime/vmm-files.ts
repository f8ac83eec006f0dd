/** A machine's directory, read and written from the agent's side (proto/vmm.ts). */
import { closeSync, constants, fstatSync, openSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../lib/limits.ts";
import { isReason, type Reason } from "../../proto/errors.ts";
import { VMM_FILES, type VmmLastError, type VmmPhase, type VmmStatus } from "../../proto/vmm.ts";

const STATUS_MAX_BYTES = 64 << 10;
const PHASES: readonly string[] = [
  "waiting",
  "booting",
  "running",
  "paused",
  "stopping",
  "ended",
] satisfies VmmPhase[];

function isPhase(value: unknown): value is VmmPhase {
  return typeof value === "string" && PHASES.includes(value);
}

const isCount = (value: unknown): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const OPTIONAL = [
  "entryUs",
  "bootUs",
  "startedAtMs",
  "endedAtMs",
  "exitCode",
  "exitSignal",
] as const;

/**
 * Null for anything that is not this machine's status. A VMM speaks for its own
 * machine only, and what it says is checked: its guest may own it.
 */
export function parseStatus(value: unknown, machineId: string): VmmStatus | null {
  if (!isRecord(value)) return null;
  const { incarnation, pid, pidStartTime, phase, reason, message } = value;
  if (value["machineId"] !== machineId || !isPhase(phase)) return null;
  if (!isCount(incarnation) || !isCount(pid) || !isCount(pidStartTime)) return null;
  const status: VmmStatus = { machineId, incarnation, pid, pidStartTime, phase };
  for (const key of OPTIONAL) {
    const number = value[key];
    if (number === undefined) continue;
    if (!isCount(number)) return null;
    status[key] = number;
  }
  if (typeof reason === "string") status.reason = isReason(reason) ? reason : "VMM_FAULT";
  if (typeof message === "string") status.message = message.slice(0, LIMITS.lastErrorBytes);
  return status;
}

export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Half-written or hostile: as good as absent.
    return null;
  }
}

/** Null when there is none: the VMM never got as far. */
export function readStatus(dir: string, machineId: string): VmmStatus | null {
  return parseStatus(parseJson(readTail(join(dir, VMM_FILES.status), STATUS_MAX_BYTES)), machineId);
}

/** The VmmLastError of vmm.log, or its last line under VMM_FAULT. */
export function readLastError(dir: string): VmmLastError {
  const lines = readTail(join(dir, VMM_FILES.log), LIMITS.lastErrorBytes).trimEnd().split("\n");
  const line = lines.at(-1) ?? "";
  const parsed = parseJson(line);
  if (isRecord(parsed) && typeof parsed["message"] === "string") {
    const named = parsed["reason"];
    const reason: Reason = typeof named === "string" && isReason(named) ? named : "VMM_FAULT";
    return { reason, message: parsed["message"].slice(0, LIMITS.lastErrorBytes) };
  }
  const said = line === "" ? "without a word" : `and said: ${line.slice(0, 400)}`;
  return { reason: "VMM_FAULT", message: `The VMM process ended ${said}` };
}

/**
 * The last maxBytes of a file that the VMM could have replaced by anything:
 * no link is followed, no pipe is waited for. "" when there is no such file.
 */
function readTail(path: string, maxBytes: number): string {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return "";
  }
  try {
    const info = fstatSync(fd);
    if (!info.isFile()) return "";
    const { size } = info;
    const tail = Buffer.alloc(Math.min(size, maxBytes));
    readSync(fd, tail, 0, tail.length, size - tail.length);
    return tail.toString("utf8");
  } finally {
    closeSync(fd);
  }
}

/** What only makes sense beside a living VMM. Safe twice. */
export function removeRunFiles(dir: string): void {
  const vsock = join(dir, VMM_FILES.vsock);
  const names = [join(dir, VMM_FILES.control), vsock, `${vsock}_1024`, join(dir, VMM_FILES.spec)];
  for (const name of names) rmSync(name, { force: true });
}
