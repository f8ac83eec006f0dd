/**
 * A host's machines in virtual time. The object is the host: agents come and go, the
 * runs stay. The first invariant is checked where it would be broken: two living runs
 * of one machine, on any hosts, end the simulation.
 */
import { LvError } from "../../proto/errors.ts";
import type { VmmStatus } from "../../proto/vmm.ts";
import type { Driver, Found, MachineRun, RunRequest } from "../../agent/runtime/driver.ts";
import type { Random } from "./random.ts";
import { isDeath, type Scheduler, type SimProcess } from "./time.ts";

export class Violation extends Error {}

/** All living runs of all hosts. */
export class RunLedger {
  readonly #live = new Map<string, SimRun>();
  /** Machines whose newest run ended without being asked to. */
  readonly endedByThemselves = new Map<string, number>();
  violation: Violation | null = null;

  begin(run: SimRun): void {
    const other = this.#live.get(run.machineId);
    if (other !== undefined)
      this.violation ??= new Violation(
        `${run.machineId} runs twice: incarnation ${other.incarnation} on ${other.host} and ${run.incarnation} on ${run.host}`,
      );
    this.#live.set(run.machineId, run);
  }

  end(run: SimRun): void {
    if (this.#live.get(run.machineId) === run) this.#live.delete(run.machineId);
  }

  get(machineId: string): SimRun | undefined {
    return this.#live.get(machineId);
  }

  get size(): number {
    return this.#live.size;
  }
}

export class SimRun implements MachineRun {
  readonly machineId: string;
  readonly incarnation: number;
  readonly host: string;
  readonly ended: Promise<VmmStatus>;
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #onEnd: (status: VmmStatus) => void;
  readonly #end = Promise.withResolvers<VmmStatus>();
  readonly #listeners = new Set<(status: VmmStatus) => void>();
  readonly #request: RunRequest;
  #status: VmmStatus;

  constructor(
    request: RunRequest,
    host: string,
    world: { scheduler: Scheduler; random: Random },
    onEnd: (status: VmmStatus) => void,
  ) {
    const { machineId, incarnation } = request;
    this.machineId = machineId;
    this.incarnation = incarnation;
    this.host = host;
    this.ended = this.#end.promise;
    this.#scheduler = world.scheduler;
    this.#random = world.random;
    this.#request = request;
    this.#onEnd = onEnd;
    this.#status = { machineId, incarnation, pid: 1, pidStartTime: 1, phase: "booting" };
    this.#later(1, 60, () => this.#begin());
  }

  get status(): VmmStatus {
    return this.#status;
  }

  subscribe(listener: (status: VmmStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  stop(signal: number, timeoutMs: number): Promise<void> {
    if (this.#status.phase === "ended") return Promise.resolve();
    this.#change({ phase: "stopping" });
    const deaf = this.#random.chance(0.1);
    const ms = deaf ? Math.min(timeoutMs, 1_000) : this.#random.between(1, 40);
    this.#later(ms, ms, () => this.finish({ exitCode: 128 + (signal || 15) }));
    return Promise.resolve();
  }

  metrics(): ReturnType<MachineRun["metrics"]> {
    return Promise.resolve({ vcpus: [], devices: [], cpuUs: 0, residentBytes: 0 });
  }

  async kill(): Promise<void> {
    this.#later(1, 3, () => this.finish({ exitCode: 137, exitSignal: 9 }));
    await this.ended;
  }

  finish(last: Partial<VmmStatus>): void {
    if (this.#status.phase === "ended") return;
    const endedAtMs = this.#scheduler.now;
    this.#status = { ...this.#status, ...last, phase: "ended", endedAtMs };
    this.#onEnd(this.#status);
    this.#end.resolve(this.#status);
  }

  #begin(): void {
    if (this.#status.phase !== "booting") return;
    this.#change({ phase: "running", bootUs: 1_000, startedAtMs: this.#scheduler.now });
    if (this.#request.process.argv[0] === "exit")
      this.#later(1, 3_000, () => this.finish({ exitCode: 0, exitSignal: 0 }));
  }

  #later(low: number, high: number, work: () => void): void {
    this.#scheduler.after(this.#random.between(low, high), null, work);
  }

  #change(change: Partial<VmmStatus>): void {
    this.#status = { ...this.#status, ...change };
    for (const listener of this.#listeners) {
      try {
        listener(this.#status);
      } catch (error) {
        // The agent died of it; the machine does not notice.
        if (!isDeath(error)) throw error;
      }
    }
  }
}

export class SimHost {
  readonly name: string;
  readonly runs = new Map<string, SimRun>();
  readonly lasts = new Map<string, VmmStatus>();
  /** Machines that have a directory. */
  readonly directories = new Set<string>();

  constructor(name: string) {
    this.name = name;
  }

  /** Power loss: every process is gone, what is on disk stays. */
  reboot(ledger: RunLedger): void {
    for (const run of this.runs.values()) {
      ledger.endedByThemselves.set(run.machineId, run.incarnation);
      run.finish({});
      this.lasts.delete(run.machineId);
    }
  }
}

/** What one agent process sees of its host. */
export class SimDriver implements Driver {
  readonly #host: SimHost;
  readonly #process: SimProcess;
  readonly #world: { scheduler: Scheduler; random: Random; ledger: RunLedger };

  constructor(
    host: SimHost,
    process: SimProcess,
    world: { scheduler: Scheduler; random: Random; ledger: RunLedger },
  ) {
    this.#host = host;
    this.#process = process;
    this.#world = world;
  }

  async start(request: RunRequest, signal: AbortSignal): Promise<MachineRun> {
    const { scheduler, random, ledger } = this.#world;
    const host = this.#host;
    await scheduler.sleep(random.between(1, 40), this.#process);
    signal.throwIfAborted();
    if (random.chance(0.02)) throw new LvError("VMM_FAULT", "The VMM did not start");
    const { machineId } = request;
    host.directories.add(machineId);
    const run: SimRun = new SimRun(request, host.name, this.#world, (last) => {
      if (host.runs.get(machineId) === run) host.runs.delete(machineId);
      host.lasts.set(machineId, last);
      if (last.exitCode === 0) ledger.endedByThemselves.set(machineId, run.incarnation);
      ledger.end(run);
    });
    ledger.begin(run);
    host.runs.set(machineId, run);
    return run;
  }

  find(): Promise<Found[]> {
    return Promise.resolve(
      [...this.#host.directories].map((machineId) => ({
        machineId,
        run: this.#host.runs.get(machineId) ?? null,
        last: this.#host.lasts.get(machineId) ?? null,
      })),
    );
  }

  async destroy(machineId: string): Promise<void> {
    const { scheduler, random } = this.#world;
    await this.#host.runs.get(machineId)?.kill();
    await scheduler.sleep(random.between(0, 10), this.#process);
    this.#host.lasts.delete(machineId);
    this.#host.directories.delete(machineId);
  }

  outputPath(machineId: string): string {
    return `/nowhere/${machineId}/output.log`;
  }

  close(): void {}
}
