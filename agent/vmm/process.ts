/**
 * Ties one machine together: sockets, files, VM and the run, and ends them in order:
 * VM stopped, status.json written, clients told, sockets removed.
 */
import { closeFile, removeFile } from "../../lib/libc.ts";
import { type BalloonStats, openShim, type Vm } from "../../native/ffi.ts";
import type { Reason } from "../../proto/errors.ts";
import {
  VMM_EXIT,
  VMM_FILES,
  type VmmMetrics,
  type VmmSpec,
  type VmmStatus,
} from "../../proto/vmm.ts";
import { BUTTON_GSI } from "./acpi.ts";
import { lastConsoleLine, openConsole } from "./console.ts";
import { type ControlHandler, type ControlServer, listenForControl } from "./control.ts";
import type { Device } from "./devices.ts";
import { errorCode, errorText, type ExitCode, toVmmError, VmmError } from "./errors.ts";
import { GUEST_SOCKET, type GuestChannel, listenForGuest } from "./guest-channel.ts";
import { buildMachine, type Machine } from "./machine.ts";
import { OutputSink } from "./output-sink.ts";
import { Run, type RunState } from "./run.ts";
import { makeFilters } from "./seccomp.ts";
import type { Prepared } from "./waiting.ts";
import { hostPid, processStartTime, writeStatus } from "./status.ts";

/** For clients that are slow to read the last push. */
const LAST_PUSH_TIMEOUT_MS = 500;

/** When the machine runs, what only its start needed goes back to the host: 0.5 MiB of 6. */
const FREE_AFTER_MS = 1_000;

function freeStartMemory(): void {
  // The second collection takes what the first one's finalizers let go.
  Bun.gc(true);
  Bun.gc(true);
  Bun.shrink();
}

type Log = (line: string) => void;
type LastError = (reason: Reason, message: string) => void;

/** A process that could not be executed is an ordinary end of a machine. */
const EXIT_CODES: Partial<Record<Reason, ExitCode>> = {
  EXEC_FAILED: VMM_EXIT.ended,
  GUEST_FAULT: VMM_EXIT.guestFault,
  GUEST_INIT_TIMEOUT: VMM_EXIT.guestInitTimeout,
};

/** Total. Resolves when the run is over and nothing of it is left but its files. */
export async function runMachine(
  spec: VmmSpec,
  ahead: Prepared | null,
  log: Log,
  lastError: LastError,
): Promise<ExitCode> {
  const machine = new MachineProcess(spec, ahead, log);
  let code: ExitCode = VMM_EXIT.ended;
  try {
    const { reason, message } = await machine.run();
    if (reason !== undefined) {
      code = EXIT_CODES[reason] ?? VMM_EXIT.vmmFault;
      if (code !== VMM_EXIT.ended) lastError(reason, message ?? "");
    }
  } catch (thrown) {
    const error = toVmmError(thrown);
    code = error.exitCode;
    machine.fail(error);
    lastError(error.reason, error.message);
  }
  await machine.close();
  return code;
}

class MachineProcess {
  readonly #spec: VmmSpec;
  readonly #ahead: Prepared | null;
  readonly #startedAt: number;
  readonly #log: Log;
  #entryUs: number | null = null;
  #pidStartTime: number | null = null;
  #state: RunState = { phase: "booting" };
  #control: ControlServer | null = null;
  #channel: GuestChannel | null = null;
  #machine: Machine | null = null;
  #balloon: BalloonStats | null = null;
  #output: OutputSink | null = null;
  #run: Run | null = null;
  #ended: (() => void) | null = null;

  constructor(spec: VmmSpec, ahead: Prepared | null, log: Log) {
    this.#spec = spec;
    this.#ahead = ahead;
    // Since performance.timeOrigin: the runtime's own start, 3 ms after the process's.
    this.#startedAt = ahead === null ? 0 : performance.now();
    this.#log = log;
  }

  get #status(): VmmStatus {
    const { machineId, incarnation } = this.#spec;
    const pid = hostPid();
    const entry = this.#entryUs === null ? {} : { entryUs: this.#entryUs };
    this.#pidStartTime ??= processStartTime();
    const pidStartTime = this.#pidStartTime;
    return { machineId, incarnation, pid, pidStartTime, ...entry, ...this.#state };
  }

  async run(): Promise<VmmStatus> {
    // Nothing is handled before `await end`, and by then there is a run.
    const kill = (): void => this.#run?.kill();
    process.on("SIGTERM", kill);
    process.on("SIGINT", kill);
    const end = new Promise<void>((resolve) => {
      this.#ended = resolve;
    });
    // Before anybody can ask; a process that waited has its guest run first.
    if (this.#ahead === null) this.#change({ phase: "booting" });
    this.#listen();
    this.#machine = this.#build();
    const run = this.#makeRun(this.#machine);
    this.#run = run;
    this.#channel?.serve(run);
    const { vm } = this.#machine;
    vm.confine(this.#ahead?.filters ?? makeFilters());
    vm.start();
    this.#entryUs = Math.round(this.#uptimeUs());
    // What runs from now on runs often; native/build.ts held it back.
    Bun.unsafe.setJITPolicy(1);
    // Nothing of the guest is heard before `await end`, so files can wait for its start.
    this.#output = new OutputSink(VMM_FILES.output, this.#spec, this.#log);
    if (this.#ahead !== null) this.#change({ phase: "booting" });
    void this.#watch(run).catch((error: unknown) => this.#log(`events: ${String(error)}`));
    await end;
    return this.#status;
  }

  /** On the sockets of before, when this process has waited. */
  #listen(): void {
    const handler: ControlHandler = {
      status: () => this.#status,
      request: (request) => (this.#run === null ? notYet() : this.#run.request(request)),
      metrics: () => this.#metrics(),
    };
    this.#control = this.#ahead?.control ?? listenForControl(VMM_FILES.control, handler);
    this.#control.serve(handler);
    this.#channel = this.#ahead?.channel ?? listenForGuest(GUEST_SOCKET);
  }

  #makeRun({ vm, devices }: Machine): Run {
    return new Run({
      spec: this.#spec,
      now: () => Date.now(),
      uptimeUs: () => this.#uptimeUs(),
      after: (ms, call) => {
        const timer = setTimeout(call, ms);
        return () => clearTimeout(timer);
      },
      sendToGuest: (frame) => this.#channel?.send(frame) ?? false,
      appendOutput: (stream, data) => this.#output?.append(stream, data),
      lastConsoleLine: () => lastConsoleLine(VMM_FILES.console),
      pauseVm: () => paused(vm),
      setBalloon: (bytes) => vm.setBalloon(indexOf(devices, "balloon"), bytes),
      resumeVm: () => vm.resume(),
      pressPower: () => vm.pulse(BUTTON_GSI),
      stopVm: (whenDrained) => {
        vm.stop();
        void (this.#channel?.drained() ?? Promise.resolve()).then(whenDrained);
      },
      changed: (state) => this.#change(state),
      log: this.#log,
    });
  }

  #uptimeUs(): number {
    return (performance.now() - this.#startedAt) * 1_000;
  }

  #metrics(): VmmMetrics {
    if (this.#machine === null) return { vcpus: [], devices: [] };
    const { vm, vcpus, devices } = this.#machine;
    // Asking moves the machine, which a paused one must not.
    if (this.#state.phase !== "paused")
      this.#balloon = vm.balloonStats(indexOf(devices, "balloon"));
    return {
      vcpus: Array.from({ length: vcpus }, (_, vcpu) => vm.vcpuStats(vcpu)),
      devices: devices.map(({ kind }, index) => ({ kind, ...vm.deviceStats(index) })),
      ...(this.#balloon === null ? {} : { balloon: this.#balloon }),
    };
  }

  #build(): Machine {
    const consoleFd = openConsole(VMM_FILES.console);
    try {
      const shim = this.#ahead?.shim ?? loadShim();
      const ahead = this.#ahead?.base ?? null;
      const vsockPath = VMM_FILES.vsock;
      return buildMachine({ shim, spec: this.#spec, consoleFd, vsockPath, ahead });
    } finally {
      closeFile(consoleFd);
    }
  }

  /** The shim's events, until the VM is destroyed. */
  async #watch(run: Run): Promise<void> {
    const vm = this.#machine?.vm;
    if (vm === undefined) return;
    const reader = Bun.file(vm.eventFd).stream().getReader();
    while (this.#state.phase !== "ended") {
      const { done } = await reader.read();
      for (let event = vm.nextEvent(); event !== null; event = vm.nextEvent()) run.vmEvent(event);
      if (done) return;
    }
    await reader.cancel();
  }

  #change(state: RunState): void {
    this.#state = state;
    writeStatus(VMM_FILES.status, this.#status);
    this.#control?.push(this.#status);
    if (state.phase === "running") setTimeout(freeStartMemory, FREE_AFTER_MS).unref();
    if (state.phase === "ended") this.#ended?.();
  }

  /** The machine never came to be, or a step of its building failed. */
  fail(error: VmmError): void {
    const { reason, message } = error;
    try {
      this.#change({ ...this.#state, phase: "ended", endedAtMs: Date.now(), reason, message });
    } catch (second) {
      this.#log(`Cannot write ${VMM_FILES.status}: ${errorText(second)}`);
    }
  }

  /** Idempotent; never throws for what is gone already. */
  async close(): Promise<void> {
    const deadline = performance.now() + LAST_PUSH_TIMEOUT_MS;
    while (this.#control?.idle() === false && performance.now() < deadline) await Bun.sleep(5);
    this.#channel?.close();
    this.#control?.close();
    this.#output?.close();
    this.#machine?.vm.stop();
    removeFile(VMM_FILES.vsock);
  }
}

/** False when the guest ended its machine before the pause reached it. */
function paused(vm: Vm): boolean {
  try {
    vm.pause();
    return true;
  } catch (error) {
    if (errorCode(error) === "EBUSY") return false;
    throw error;
  }
}

const indexOf = (devices: readonly Device[], kind: Device["kind"]): number =>
  devices.findIndex((device) => device.kind === kind);

function notYet(): { reason: Reason; message: string } {
  return { reason: "STATE_CONFLICT", message: "The machine is being built" };
}

export function loadShim(): ReturnType<typeof openShim> {
  try {
    return openShim(process.env["LEVERET_SHIM"]);
  } catch (error) {
    throw new VmmError("TOOL_MISSING", VMM_EXIT.vmmFault, errorText(error), error);
  }
}
