/**
 * All machines of this host. Ops come in here, are journalled, acknowledged and
 * queued on their machine; statuses, results and progress go out through `listen`.
 */
import { create } from "@bufbuild/protobuf";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import {
  MachineState,
  type MachineStatus,
  MachineStatusSchema,
  type Op,
  type Result,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { MachineId } from "../../proto/ids.ts";
import type { Capacity } from "../config.ts";
import type { Images } from "../images/types.ts";
import type { Driver } from "./driver.ts";
import { ImageJobs, isImageOp } from "./image-jobs.ts";
import { Logins } from "./logins.ts";
import { Machine } from "./machine.ts";
import { isResting } from "./ops/status.ts";
import type { AgentEvent, HostServices } from "./ops/types.ts";
import { Semaphore } from "./semaphore.ts";

/** Ops that do not let go in time (a disk that hangs) are left to the next agent. */
const LEAVE_TIMEOUT_MS = 3_000;

export type FleetOptions = Omit<
  HostServices,
  "work" | "shutdown" | "emit" | "checkRoom" | "logins"
> & {
  capacity: Capacity;
};

/** What became of an op that came in; a result is there when it was done before. */
export type Received = { journalled: boolean; result: Result | null };

export class Fleet {
  readonly #options: FleetOptions;
  readonly #host: HostServices;
  readonly #imageJobs: ImageJobs;
  readonly #machines = new Map<string, Machine>();
  readonly #forgotten = new Set<string>();
  readonly #leaving = new AbortController();
  #listener: ((event: AgentEvent) => void) | null = null;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#host = {
      ...options,
      work: new Semaphore(LIMITS.agentConcurrentOps),
      shutdown: this.#leaving.signal,
      logins: new Logins(),
      emit: (event) => this.#listener?.(event),
      checkRoom: (machineId, need) => this.#checkRoom(machineId, need),
    };
    this.#imageJobs = new ImageJobs(this.#host);
  }

  get driver(): Driver {
    return this.#options.driver;
  }

  /** One listener at a time: the stream that is open. Returns the unsubscribe. */
  listen(listener: (event: AgentEvent) => void): () => void {
    this.#listener = listener;
    return () => {
      if (this.#listener === listener) this.#listener = null;
    };
  }

  /** Before anything else: adopts what runs, removes what nobody knows, resumes ops. */
  async recover(): Promise<void> {
    const { journal, driver, log } = this.#options;
    for (const known of journal.machines()) {
      const machine = new Machine(this.#host, known.status, known.spec);
      this.#machines.set(machine.id, machine);
      if (known.forgotten) this.#forgotten.add(machine.id);
    }
    const unfinished = journal.unfinishedOps();
    const found = new Map((await driver.find()).map((one) => [one.machineId, one]));
    for (const machineId of found.keys()) {
      const machine = this.#machines.get(machineId);
      if (machine !== undefined && machine.status.state !== MachineState.DESTROYED) continue;
      log.warn({ machineId }, "removing a machine that nobody asked for");
      try {
        await driver.destroy(machineId);
      } catch (error) {
        // The other machines come first; the next start tries again.
        log.error({ err: error, machineId }, "cannot remove it");
      }
      found.delete(machineId);
    }
    for (const machine of this.#machines.values()) {
      const startPending = unfinished.some(
        (op) => op.machineId === machine.id && op.command.case === "start",
      );
      await machine.adopt(found.get(machine.id) ?? null, startPending);
    }
    for (const op of unfinished) this.#submit(op);
  }

  /** Journals a new op before it is acknowledged. Throws BAD_REQUEST for a hostile id. */
  receive(op: Op): Received {
    const { journal } = this.#options;
    if (this.#leaving.signal.aborted) return { journalled: false, result: null };
    // The id becomes a directory name.
    if (!isImageOp(op)) MachineId.parse(op.machineId);
    const known = journal.findOp(op.opId);
    // Sent again, it may bring the login that a start of the agent has lost.
    const noted = this.#host.logins.strip(op, known?.state);
    if (known !== null) return { journalled: true, result: known.result };
    journal.addOp(noted);
    this.#submit(noted);
    return { journalled: true, result: null };
  }

  #submit(op: Op): void {
    if (isImageOp(op)) this.#imageJobs.submit(op);
    else this.#machine(op.machineId).submit(op);
  }

  get images(): Images {
    return this.#options.images;
  }

  acknowledge(opId: string): void {
    const { journal } = this.#options;
    const machineId = journal.findOp(opId)?.result?.machineId;
    const machine = machineId === undefined ? undefined : this.#machines.get(machineId);
    if (machine?.status.state === MachineState.DESTROYED) {
      // Before the result is let go of: after a crash in between it is sent, and
      // acknowledged, again. The other way round the machine would be reported for ever.
      this.#forgotten.add(machine.id);
      journal.forgetMachine(machine.id);
    }
    journal.acknowledge(opId);
  }

  unackedResults(): Result[] {
    return this.#options.journal.unackedResults();
  }

  inventory(): MachineStatus[] {
    return [...this.#machines.values()]
      .filter((machine) => !this.#forgotten.has(machine.id) && machine.status.sequence > 0n)
      .map((machine) => machine.status);
  }

  /** Throws MACHINE_NOT_FOUND. */
  get(machineId: string): Machine {
    const machine = this.#machines.get(machineId);
    if (machine === undefined || machine.status.state === MachineState.DESTROYED)
      throw new LvError("MACHINE_NOT_FOUND", `Machine ${machineId} is not on this host`);
    return machine;
  }

  /** Stops taking and finishing ops; machines go on without the agent. */
  async close(): Promise<void> {
    this.#leaving.abort(new LvError("SHUTTING_DOWN", "The agent is shutting down"));
    this.#options.driver.close();
    const drained = [...this.#machines.values()].map((machine) => machine.drained);
    drained.push(this.#imageJobs.drained());
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, LEAVE_TIMEOUT_MS);
    await Promise.race([Promise.all(drained), late]);
    clearTimeout(timer);
  }

  #machine(id: string): Machine {
    const known = this.#machines.get(id);
    if (known !== undefined) return known;
    const made = new Machine(this.#host, create(MachineStatusSchema, { machineId: id }), null);
    this.#machines.set(id, made);
    return made;
  }

  #checkRoom(machineId: string, need: Capacity): void {
    const { capacity } = this.#options;
    const used = { cpus: 0, memoryMib: 0, diskMib: 0 };
    for (const { id, status } of this.#machines.values()) {
      if (id === machineId) continue;
      used.diskMib += Number(status.diskMib);
      if (isResting(status.state)) continue;
      used.cpus += status.cpus;
      used.memoryMib += Number(status.memoryMib);
    }
    const short = (["cpus", "memoryMib", "diskMib"] as const).filter(
      (kind) => used[kind] + need[kind] > capacity[kind],
    );
    if (short.length === 0) return;
    const wants = short.map((kind) => `${need[kind]} ${LABEL[kind]}`).join(", ");
    const has = short
      .map((kind) => `${Math.max(0, capacity[kind] - used[kind])} of ${capacity[kind]}`)
      .join(", ");
    throw new LvError("NO_CAPACITY", `This host has no room for ${wants}: ${has} free`);
  }
}

const LABEL = { cpus: "CPUs", memoryMib: "MiB of memory", diskMib: "MiB of disk" } as const;
