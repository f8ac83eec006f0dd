/**
 * One run of a machine, from the first instruction to its end: the state machine
 * between guest, hypervisor and supervisor. No I/O of its own; everything it touches
 * is handed in, so its tests need no VM.
 *
 *                   resume ┌──paused
 *                          v    ^ pause
 *   booting ──STARTED──> running ──stop──> stopping ──┐
 *      │  └────────────────────────shutdown──^  │     │
 *      └────────┬────────────────────────┬──────┴─────┘
 *               v                       v
 *      EXIT / ERROR: POWEROFF     kill, reset, time-out,
 *      sent, wait for the guest   fault: the VM is stopped
 *      to switch itself off       at once
 *               └───────> ended <───────┘
 *
 * Everything is called on the main thread. The first cause of an end wins: what the
 * guest says or does after it changes nothing. The one exception is a channel that
 * closes before EXIT, which is a sign and no cause: a kernel that powers off or reboots
 * resets its devices first. How the guest goes then is what the status says.
 * `ended` is announced after the VM has been stopped, so nothing touches its disks any
 * more, and after the last of the guest's output has been taken.
 */
import { GUEST_ERROR } from "../../proto/guest.ts";
import type { Reason } from "../../proto/errors.ts";
import type { VmmPhase, VmmRequest, VmmSpec } from "../../proto/vmm.ts";
import type { VmEvent } from "../../native/ffi.ts";
import { refuse } from "./actions.ts";
import { deviceFault } from "./device-fault.ts";
import { encodePowerOff, encodeRun, encodeSignal } from "./frames.ts";
import type { GuestHandler } from "./guest-channel.ts";

/** For init to end what still runs, sync and switch off. */
const POWER_OFF_TIMEOUT_MS = 15_000;
const SIGKILL = 9;
const SIGTERM = 15;
const SEED_BYTES = 64;

/** What a run adds to the status. */
export type RunState = {
  phase: VmmPhase;
  bootUs?: number;
  startedAtMs?: number;
  endedAtMs?: number;
  exitCode?: number;
  exitSignal?: number;
  reason?: Reason;
  message?: string;
};

export type RunPorts = {
  spec: VmmSpec;
  now(): number;
  /** Microseconds since the start of this process. */
  uptimeUs(): number;
  /** Calls back once after ms; the result cancels. */
  after(ms: number, call: () => void): () => void;
  sendToGuest(frame: Uint8Array): boolean;
  appendOutput(stream: "stdout" | "stderr", data: Uint8Array): void;
  /** The last thing the guest's kernel said, or "". */
  lastConsoleLine(): string;
  /** False when the VM has ended already. */
  pauseVm(): boolean;
  setBalloon(bytes: number): void;
  resumeVm(): void;
  /** The guest's ACPI power button. */
  pressPower(): void;
  /** Calls back, once, when what the guest had sent by then was handed to this run. */
  stopVm(whenDrained: () => void): void;
  /** Called at each change, after which `state` is the new one. */
  changed(state: RunState): void;
  log(line: string): void;
};

type Refusal = { reason: Reason; message: string };

/** How an end looks in the status; the first one counts. */
type End = Pick<RunState, "exitCode" | "exitSignal" | "reason" | "message">;

export class Run implements GuestHandler {
  readonly #ports: RunPorts;
  #state: RunState = { phase: "booting" };
  #end: End | null = null;
  /** `#end` is that of a closed channel: the guest's own end, should it come, replaces it. */
  #endIsGuess = false;
  /** No guest is left, though its last output may be on its way. */
  #isStopped = false;
  #cancelInit: () => void;
  #cancelStop: () => void = () => undefined;
  #cancelPowerOff: () => void = () => undefined;

  /** Starts the clock of spec.initTimeoutMs, which counts from the start of the process. */
  constructor(ports: RunPorts) {
    this.#ports = ports;
    const { initTimeoutMs } = ports.spec;
    const leftMs = Math.max(0, initTimeoutMs - ports.uptimeUs() / 1_000);
    this.#cancelInit = ports.after(leftMs, () =>
      this.#finish({
        reason: "GUEST_INIT_TIMEOUT",
        message: this.#quoting(`The guest's init did not answer within ${initTimeoutMs / 1_000} s`),
      }),
    );
  }

  get state(): RunState {
    return this.#state;
  }

  // From the guest's init.

  hello(): void {
    this.#cancelInit();
    // A shutdown was quicker than the boot.
    if (this.#end !== null) return void this.#ports.sendToGuest(encodePowerOff());
    const { spec } = this.#ports;
    this.#change({ ...this.#state, bootUs: Math.round(this.#ports.uptimeUs()) });
    const { argv, env, cwd, user } = spec.process;
    const seed = crypto.getRandomValues(new Uint8Array(SEED_BYTES));
    const clockNs = BigInt(this.#ports.now()) * 1_000_000n;
    const { hostname, resolvConf } = spec;
    const networks = spec.networks.map((it, i) => `eth${i} ${it.address} ${it.gateway}`);
    this.#ports.sendToGuest(
      encodeRun({ argv, env, cwd, user, hostname, networks, resolvConf, seed, clockNs }),
    );
  }

  started(): void {
    if (this.#end !== null) return;
    this.#change({ ...this.#state, phase: "running", startedAtMs: this.#ports.now() });
  }

  output(stream: "stdout" | "stderr", data: Uint8Array): void {
    this.#ports.appendOutput(stream, data);
  }

  exit(code: number, signal: number): void {
    const killed = signal > 0 && signal <= 64;
    this.#powerOff(
      killed ? { exitCode: 128 + signal, exitSignal: signal } : { exitCode: code & 0xff },
    );
  }

  error(kind: number, message: string): void {
    switch (kind) {
      case GUEST_ERROR.execNotFound:
        return this.#powerOff({ exitCode: 127, reason: "EXEC_FAILED", message });
      case GUEST_ERROR.execDenied:
        return this.#powerOff({ exitCode: 126, reason: "EXEC_FAILED", message });
      case GUEST_ERROR.user:
      case GUEST_ERROR.cwd:
        return this.#powerOff({ reason: "EXEC_FAILED", message });
      default:
        return this.#powerOff({ reason: "GUEST_FAULT", message });
    }
  }

  log(line: string): void {
    this.#ports.log(`init: ${line}`);
  }

  broken(what: string): void {
    this.#finish({
      reason: "GUEST_FAULT",
      message: `The guest broke the protocol of its init: ${what}`,
    });
  }

  /** init or its kernel is about to power off by itself, with its last words before. */
  closed(): void {
    if (this.#end !== null) return;
    this.#endIsGuess = true;
    this.#awaitPowerOff({
      reason: "GUEST_FAULT",
      message: "The guest's init closed its channel before its process ended",
    });
  }

  // From the hypervisor.

  vmEvent(event: VmEvent): void {
    switch (event.kind) {
      case "power_off":
        return this.#fault("The guest powered off before its process ended");
      case "reset":
        return this.#fault("The guest reset itself or crashed");
      case "vcpu_failed":
        return this.#fault(vcpuFailure(event));
      case "device_failed":
        return this.#fault(
          `The guest broke a queue of its virtio device ${event.device}: ${deviceFault(event.detail)}`,
        );
      case "host_failed":
        return this.#finish({
          reason: "VMM_FAULT",
          message: `A call of the host failed under the machine: errno ${event.error}`,
        });
      case "debug":
        return this.#ports.log(`debug port: ${event.value}`);
      default: {
        const rest: never = event.kind;
        throw new TypeError(`No such event: ${String(rest)}`);
      }
    }
  }

  // From the supervisor.

  /** Null = done. Repeating a stop replaces its time-out. */
  request(request: VmmRequest): Refusal | null {
    const refusal = refuse(request.action, this.#isStopped ? "ended" : this.#state.phase);
    if (refusal !== null) return { reason: "STATE_CONFLICT", message: refusal };
    switch (request.action) {
      case "status":
      case "metrics":
      case "boot":
        // Answered by the process, which has what they are about.
        return null;
      case "pause":
        return this.#pause();
      case "resume":
        this.#resume();
        return null;
      case "balloon":
        return this.#balloon(request.mib);
      case "shutdown":
        return this.#shutdown(request.timeoutMs);
      case "reset":
        this.#finish({ message: "The machine was reset" });
        return null;
      case "kill":
        this.kill();
        return null;
      case "stop":
        return this.#stop(request.signal || this.#ports.spec.process.stopSignal, request.timeoutMs);
      case "signal":
        return this.#signal(request.signal);
      default: {
        const rest: never = request;
        throw new TypeError(`No such request: ${JSON.stringify(rest)}`);
      }
    }
  }

  /** Ends the machine at once. After EXIT its exit code stays. */
  kill(): void {
    this.#finish({ exitCode: 128 + SIGKILL, exitSignal: SIGKILL });
  }

  #stop(signal: number, timeoutMs: number): Refusal | null {
    // There is no process yet that could handle a signal, and nothing to lose.
    if (this.#state.phase === "booting" && this.#end === null) {
      this.kill();
      return null;
    }
    if (this.#state.phase === "paused") this.#resume();
    this.#cancelStop();
    this.#cancelStop = this.#ports.after(timeoutMs, () => this.kill());
    if (this.#state.phase === "running" && this.#end === null)
      this.#change({ ...this.#state, phase: "stopping" });
    if (this.#end === null) this.#ports.sendToGuest(encodeSignal(signal));
    return null;
  }

  #balloon(mib: number): Refusal | null {
    const { memoryMib } = this.#ports.spec;
    if (mib > memoryMib)
      return { reason: "BAD_REQUEST", message: `The machine has ${memoryMib} MiB, not ${mib}` };
    this.#ports.setBalloon(mib * 2 ** 20);
    return null;
  }

  #pause(): Refusal | null {
    if (this.#end !== null || !this.#ports.pauseVm())
      return { reason: "STATE_CONFLICT", message: "The machine is about to end" };
    this.#change({ ...this.#state, phase: "paused" });
    return null;
  }

  #resume(): void {
    this.#ports.resumeVm();
    this.#change({ ...this.#state, phase: "running" });
  }

  /**
   * As stop, but it is the guest that is asked and not its process: our init over its
   * channel, now or when it says hello, and whoever else is there by the power button.
   * The caller's time-out is the only one.
   */
  #shutdown(timeoutMs: number): Refusal | null {
    if (this.#state.phase === "paused") this.#resume();
    this.#cancelStop();
    this.#cancelStop = this.#ports.after(timeoutMs, () => this.kill());
    this.#ports.pressPower();
    if (this.#end !== null) return null;
    this.#end = { exitCode: 128 + SIGTERM, exitSignal: SIGTERM };
    this.#cancelInit();
    this.#change({ ...this.#state, phase: "stopping" });
    this.#ports.sendToGuest(encodePowerOff());
    return null;
  }

  #signal(signal: number): Refusal | null {
    if (this.#end !== null)
      return { reason: "STATE_CONFLICT", message: "The machine's process does not run" };
    if (this.#ports.sendToGuest(encodeSignal(signal))) return null;
    return { reason: "STATE_CONFLICT", message: "The guest does not take signals" };
  }

  /** The process is over: let the guest switch itself off in order. */
  #powerOff(end: End): void {
    if (this.#end !== null) return;
    this.#awaitPowerOff(end);
    this.#ports.sendToGuest(encodePowerOff());
  }

  #awaitPowerOff(end: End): void {
    if (this.#end !== null) return;
    this.#end = end;
    this.#cancelInit();
    this.#cancelPowerOff = this.#ports.after(POWER_OFF_TIMEOUT_MS, () => this.#finish(end));
  }

  /** An end of the guest: expected after EXIT, else GUEST_FAULT with its last words. */
  #fault(message: string): void {
    if (this.#endIsGuess) this.#end = null;
    this.#finish({ reason: "GUEST_FAULT", message: this.#quoting(message) });
  }

  #quoting(message: string): string {
    const line = this.#ports.lastConsoleLine();
    return line === "" ? message : `${message}; its last console line: ${line}`;
  }

  #finish(end: End): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    for (const cancel of [this.#cancelInit, this.#cancelStop, this.#cancelPowerOff]) cancel();
    this.#end ??= end;
    this.#ports.stopVm(() =>
      this.#change({
        ...this.#state,
        phase: "ended",
        endedAtMs: this.#ports.now(),
        ...this.#end,
      }),
    );
  }

  #change(state: RunState): void {
    this.#state = state;
    this.#ports.changed(state);
  }
}

function vcpuFailure(event: VmEvent): string {
  const code = Buffer.from(event.bytes).toString("hex");
  const detail =
    event.error !== 0
      ? `errno ${event.error}`
      : `KVM exit ${event.detail}, detail 0x${event.value.toString(16)}, instruction ${code}`;
  return `vCPU ${event.vcpu} cannot go on (${detail})`;
}
