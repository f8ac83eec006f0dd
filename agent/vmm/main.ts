/**
 * The VMM process: `bun agent/vmm/main.ts <machine dir>`, one process, one VM, one run.
 * The directory's files and the exit codes are proto/vmm.ts. The last line of standard
 * error is a VmmLastError unless the run ended in order.
 *
 * The process works inside the machine's directory: unix socket paths stay short
 * whatever the directory is called. It imports next to nothing; every MiB here is paid
 * per machine. A crash leaves sockets and a status that names a dead pid behind: the
 * supervisor sees the pid is gone, the next start replaces the rest.
 */
import { closeFile, fileExists, readText, writeSome } from "../../lib/libc.ts";
import { LIMITS } from "../../lib/limits.ts";
import {
  VMM_EXIT,
  VMM_FILES,
  type VmmLastError,
  type VmmSpec,
  type VmmStatus,
} from "../../proto/vmm.ts";
import { errorText, type ExitCode, toVmmError, VmmError } from "./errors.ts";
import { loadShim, runMachine } from "./process.ts";
import { parseSpec } from "./spec.ts";
import { discard, type Prepared, waitForBoot } from "./waiting.ts";
import { directoryName, hostPid, processStartTime, writeStatus } from "./status.ts";

function printLine(line: string): void {
  try {
    writeSome(2, new TextEncoder().encode(`${line}\n`));
  } catch {
    // vmm.log is on a full disk or closed: the exit code and status.json still say it
  }
}

function printLastError(reason: VmmLastError["reason"], message: string): void {
  const error: VmmLastError = { reason, message: message.slice(0, LIMITS.lastErrorBytes / 2) };
  printLine(JSON.stringify(error));
}

/** The status of a machine whose spec cannot be read: what can be known of it. */
function writeFailure(error: VmmError, specText: string): void {
  let raw: { machineId?: unknown; incarnation?: unknown } = {};
  try {
    raw = (JSON.parse(specText) as typeof raw | null) ?? {};
  } catch {
    // the error says that the spec is no JSON
  }
  const status: VmmStatus = {
    machineId: typeof raw.machineId === "string" ? raw.machineId : directoryName(),
    incarnation: typeof raw.incarnation === "number" ? raw.incarnation : 0,
    pid: hostPid(),
    pidStartTime: processStartTime(),
    phase: "ended",
    endedAtMs: Date.now(),
    reason: error.reason,
    message: error.message,
  };
  writeStatus(VMM_FILES.status, status);
}

async function main(): Promise<ExitCode> {
  const [directory, ...rest] = process.argv.slice(2);
  if (directory === undefined || rest.length > 0) {
    printLine("usage: bun agent/vmm/main.ts <machine directory>");
    printLastError("BAD_REQUEST", "The VMM takes one argument, the machine's directory");
    return VMM_EXIT.usage;
  }
  let spec: VmmSpec;
  let specText = "";
  let entered = false;
  let ahead: Prepared | null = null;
  try {
    enter(directory);
    entered = true;
    if (fileExists(VMM_FILES.pool) && !fileExists(VMM_FILES.spec)) {
      ahead = await waitForBoot(loadShim);
      if (ahead === null) return VMM_EXIT.ended;
    }
    specText = readSpecText();
    spec = parseSpec(specText);
  } catch (thrown) {
    const error = toVmmError(thrown);
    if (ahead !== null) discard(ahead);
    try {
      if (entered) writeFailure(error, specText);
    } catch (second) {
      printLine(`Cannot write ${VMM_FILES.status}: ${errorText(second)}`);
    }
    printLastError(error.reason, error.message);
    return error.exitCode;
  }
  return runMachine(spec, ahead, printLine, printLastError);
}

function enter(directory: string): void {
  try {
    process.chdir(directory);
  } catch (error) {
    const text = `Cannot enter the machine's directory ${directory}: ${errorText(error)}`;
    throw new VmmError("CONFIG_INVALID", VMM_EXIT.specInvalid, text, error);
  }
}

function readSpecText(): string {
  try {
    return readText(VMM_FILES.spec);
  } catch (error) {
    throw new VmmError(
      "CONFIG_INVALID",
      VMM_EXIT.specInvalid,
      `Cannot read ${VMM_FILES.spec} in ${process.cwd()}: ${errorText(error)}`,
      error,
    );
  }
}

/** A bug of ours: the machine dies with the process, and says so. */
function crash(error: unknown): void {
  printLine(error instanceof Error ? (error.stack ?? error.message) : String(error));
  printLastError("VMM_FAULT", `The VMM crashed: ${String(error)}`);
  process.exit(VMM_EXIT.vmmFault);
}

// A machine outlives the terminal its agent was started from.
process.on("SIGHUP", () => undefined);
process.on("uncaughtException", crash);
process.on("unhandledRejection", crash);
// No top-level await: bytecode is for CommonJS (native/build.ts).
void main().then((code) => {
  closeFile(2);
  process.exit(code);
});
