/** A machine's directory, read and written from the agent's side (proto/vmm.ts). */
import { closeSync, fstatSync, openSync, readFileSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../lib/limits.ts";
import { isReason, type Reason } from "../../proto/errors.ts";
import { VMM_FILES, type VmmLastError, type VmmPhase, type VmmStatus } from "../../proto/vmm.ts";

const PHASES: readonly string[] = ["booting", "running", "stopping", "ended"] satisfies VmmPhase[];

function isPhase(value: unknown): value is VmmPhase {
  return typeof value === "string" && PHASES.includes(value);
}

const isCount = (value: unknown): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const OPTIONAL = ["bootUs", "startedAtMs", "endedAtMs", "exitCode", "exitSignal"] as const;

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

export function readStatus(dir: string, machineId: string): VmmStatus | null {
  try {
    return parseStatus(parseJson(readFileSync(join(dir, VMM_FILES.status), "utf8")), machineId);
  } catch {
    // Not there: the VMM never got as far.
    return null;
  }
}

/** The VmmLastError of vmm.log, or its last line under VMM_FAULT. */
export function readLastError(dir: string): VmmLastError {
  const lines = readTail(join(dir, VMM_FILES.log)).trimEnd().split("\n");
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

function readTail(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch {
    // No log: the process never began.
    return "";
  }
  try {
    const { size } = fstatSync(fd);
    const tail = Buffer.alloc(Math.min(size, LIMITS.lastErrorBytes));
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
