/**
 * One machine on this host: its status, its run, and the queue of its operations.
 *
 *   submit(op) ─► queue ─► one op at a time ─► journal the result ─► announce
 *
 * Everything happens on the main thread; only one op of a machine is under way.
 * Order: the newest generation wins. An op that is older than the newest one
 * received is answered SUPERSEDED without acting. A newer stop or destroy cuts an
 * op that is waiting (for an image, a boot, a process that ignores its signal); a
 * newer start cuts only a start, since a stop under way has to end first anyway.
 * Destroy is final whatever its generation.
 *
 * When the agent leaves (`shutdown`) an op under way gets no result: it stays
 * journalled and is run again by the next agent. Crash anywhere: the same.
 */
import { create } from "@bufbuild/protobuf";
import { LvError } from "../../proto/errors.ts";
import {
  type MachineSpec,
  MachineState,
  type MachineStatus,
  MachineStatusSchema,
  type Op,
  ResultSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Found, MachineRun } from "./driver.ts";
import { destroyMachine } from "./ops/destroy.ts";
import { startMachine } from "./ops/start.ts";
import { isResting, oneLine, patchFromRun } from "./ops/status.ts";
import { stopMachine } from "./ops/stop.ts";
import type { HostServices, MachineHandle, StatusPatch } from "./ops/types.ts";

const FINAL_GENERATION = 2n ** 64n;

/** Where an op stands in the order of its machine; nothing comes after a destroy. */
const rank = (op: Op): bigint => (op.command.case === "destroy" ? FINAL_GENERATION : op.generation);

export class Machine implements MachineHandle {
  readonly id: string;
  readonly #host: HostServices;
  #status: MachineStatus;
  #spec: MachineSpec | null;
  #run: MachineRun | null = null;
  readonly #queue: Op[] = [];
  #current: { op: Op; controller: AbortController } | null = null;
  #draining = false;
  #drained: Promise<void> = Promise.resolve();
  #newest: bigint;
  readonly #watchers = new Set<() => void>();

  constructor(host: HostServices, status: MachineStatus, spec: MachineSpec | null) {
    this.id = status.machineId;
    this.#host = host;
    this.#status = status;
    this.#spec = spec;
    this.#newest = status.state === MachineState.DESTROYED ? FINAL_GENERATION : status.generation;
  }

  get status(): MachineStatus {
    return this.#status;
  }

  get run(): MachineRun | null {
    return this.#run;
  }

  /** True when nothing runs and nothing is about to. */
  get settled(): boolean {
    return this.#run === null && !this.#draining && isResting(this.#status.state);
  }

  /** Called after each change of status, run or queue. Returns the unsubscribe. */
  watch(listener: () => void): () => void {
    this.#watchers.add(listener);
    return () => void this.#watchers.delete(listener);
  }

  /** The op is in the journal already. Returns at once. */
  submit(op: Op): void {
    this.#queue.push(op);
    if (rank(op) > this.#newest) this.#newest = rank(op);
    const current = this.#current;
    if (current !== null && rank(op) > rank(current.op)) {
      const cuts = op.command.case !== "start" || current.op.command.case === "start";
      if (cuts && current.op.command.case !== "destroy")
        current.controller.abort(new LvError("SUPERSEDED", "A newer operation came in"));
    }
    if (!this.#draining) this.#drained = this.#drain();
  }

  /** Resolves when the queue is empty, or when a leaving agent's current op has let go. */
  get drained(): Promise<void> {
    return this.#drained;
  }

  update(patch: StatusPatch, spec?: MachineSpec): void {
    // The next agent finds out for itself; this one's journal is about to close.
    if (this.#host.shutdown.aborted) return;
    this.#status = create(MachineStatusSchema, {
      ...this.#status,
      ...patch,
      machineId: this.id,
      sequence: this.#status.sequence + 1n,
    });
    if (spec !== undefined) this.#spec = spec;
    this.#host.journal.saveMachine(this.#status, this.#spec);
    this.#host.emit({ case: "status", value: this.#status });
    this.#notify();
  }

  attach(run: MachineRun): void {
    this.#run = run;
    const unsubscribe = run.subscribe((status) => {
      // The end is announced when the process is gone: see `ended`.
      if (status.phase !== "ended") this.#follow(status);
    });
    this.#follow(run.status);
    void run.ended.then((status) => {
      unsubscribe();
      this.#run = null;
      if (this.#host.shutdown.aborted) return;
      this.update(patchFromRun({ ...status, phase: "ended" }, this.#host.clock.now()));
    });
  }

  /** At the agent's start, before any op: the journal's word meets what is there. */
  async adopt(found: Found | null, startPending: boolean): Promise<void> {
    const { state, incarnation } = this.#status;
    const expected = !isResting(state);
    if (found !== null && found.run !== null) {
      if (expected && BigInt(found.run.incarnation) === incarnation) {
        this.#host.log.info({ machineId: this.id, pid: found.run.status.pid }, "adopted machine");
        this.attach(found.run);
        return;
      }
      this.#host.log.warn({ machineId: this.id }, "killing a run that should not be there");
      await found.run.kill();
    }
    if (!expected) return;
    const last = found?.last ?? null;
    const now = this.#host.clock.now();
    if (last !== null && BigInt(last.incarnation) === incarnation && last.phase === "ended")
      this.update(patchFromRun(last, now));
    else if (!startPending)
      this.update({
        state: MachineState.FAILED,
        reason: "VMM_FAULT",
        message: "The machine's process is gone: it was killed, or the host was restarted",
        stoppedAtMs: BigInt(now),
      });
  }

  #follow(status: MachineRun["status"]): void {
    const patch = patchFromRun(status, this.#host.clock.now());
    // Between our "stop" and the VMM's answer to it the machine is stopping all the same.
    const stopping =
      this.#status.state === MachineState.STOPPING && patch.state === MachineState.STARTED;
    const next = stopping ? { ...patch, state: MachineState.STOPPING } : patch;
    if (next.state !== this.#status.state || next.bootUs !== this.#status.bootUs) this.update(next);
  }

  async #drain(): Promise<void> {
    this.#draining = true;
    // Ops handed in together are ordered before the first one acts.
    await Promise.resolve();
    for (let op = this.#queue.shift(); op !== undefined; op = this.#queue.shift()) {
      const error = await this.#execute(op);
      this.#host.logins.forget(op.opId);
      if (this.#host.shutdown.aborted) break;
      const result = create(ResultSchema, {
        opId: op.opId,
        machineId: this.id,
        errorReason: error?.reason ?? "",
        errorMessage: oneLine(error?.message ?? ""),
        status: this.#status,
      });
      this.#host.journal.finishOp(result);
      this.#host.emit({ case: "result", value: result });
    }
    this.#draining = false;
    this.#notify();
  }

  /** Null = done. */
  async #execute(op: Op): Promise<LvError | null> {
    if (rank(op) < this.#newest)
      return new LvError("SUPERSEDED", "A newer operation on this machine was received");
    const controller = new AbortController();
    const signal = AbortSignal.any([controller.signal, this.#host.shutdown]);
    this.#current = { op, controller };
    try {
      await this.#apply(op, signal);
      return null;
    } catch (error) {
      if (!this.#host.shutdown.aborted && signal.aborted) await this.#clearAborted(op);
      const failure = signal.aborted ? LvError.from(signal.reason) : LvError.from(error);
      if (failure.reason === "INTERNAL" && !this.#host.shutdown.aborted)
        this.#host.log.error({ err: error, machineId: this.id, opId: op.opId }, "operation failed");
      return failure;
    } finally {
      this.#current = null;
    }
  }

  async #apply(op: Op, signal: AbortSignal): Promise<void> {
    const { command } = op;
    switch (command.case) {
      case "start":
        return startMachine(this.#host, this, op, command.value, signal);
      case "stop":
        return stopMachine(this.#host, this, op, command.value, signal);
      case "destroy":
        return destroyMachine(this.#host, this, op);
      case "pullImage":
      case "pruneImages":
      case "pinImage":
      case "removeImage":
      case undefined:
        throw new LvError("UNIMPLEMENTED", "This agent does not know the operation");
      default: {
        const rest: never = command;
        return rest;
      }
    }
  }

  /** A start that was cut leaves no run behind for the op that cut it. */
  async #clearAborted(op: Op): Promise<void> {
    if (op.command.case !== "start" || this.#run === null) return;
    const run = this.#run;
    if (BigInt(run.incarnation) !== op.command.value.incarnation) return;
    await run.kill();
    await run.ended;
  }

  #notify(): void {
    for (const watcher of this.#watchers) watcher();
  }
}
