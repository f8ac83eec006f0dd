/** The real control plane above SQL and below HTTP, as a process that can die or stand still. */
import { startLoop } from "../../cp/loops.ts";
import type { Deps } from "../../cp/ops/deps.ts";
import type { Origin } from "../../cp/ops/report.ts";
import { composePlane } from "../../cp/plane.ts";
import { silentLog } from "../../lib/log.ts";
import { ReplicaId } from "../../proto/ids.ts";
import { serveControl } from "./control.ts";
import { type SharedStore, SimDatabase } from "./database.ts";
import type { Hub, Network } from "./network.ts";
import type { Random } from "./random.ts";
import { Death, type Scheduler, SimProcess } from "./time.ts";

/** Made once: it is not free. */
const LOG = silentLog();

export type PlaneWorld = {
  scheduler: Scheduler;
  random: Random;
  network: Network;
  store: SharedStore;
};

export class SimPlane {
  readonly process: SimProcess;
  readonly deps: Deps;
  /** Rejects when the process dies: what a client's connection does. */
  readonly died: Promise<never>;
  readonly #world: PlaneWorld;
  readonly #database: SimDatabase;
  readonly #plane: ReturnType<typeof composePlane>;

  constructor(name: string, world: PlaneWorld) {
    this.#world = world;
    this.process = new SimProcess(name);
    const { scheduler, random, store } = world;
    this.#database = new SimDatabase(store, this.process, scheduler, random);
    this.#plane = composePlane({
      database: this.#database,
      clock: scheduler.clockOf(this.process),
      log: LOG,
      replicaId: ReplicaId.create(),
      authority: null,
      replicaUrl: () => `sim://${name}`,
    });
    this.deps = this.#plane.deps;
    const { promise, reject } = Promise.withResolvers<never>();
    this.died = promise;
    promise.catch(() => undefined);
    this.process.onDeath(() => {
      world.network.closeAll(this.process);
      reject(new Death(`${name} died`));
    });
  }

  async start(): Promise<void> {
    const { deps, parts, periodic } = this.#plane;
    await this.#plane.enter();
    for (const { name, ms, work } of periodic)
      startLoop({ name, ms, work, clock: deps.clock, log: deps.log });
    const hub: Hub = {
      process: this.process,
      connect: (frames, context) => serveControl(parts, frames, context),
    };
    this.#world.network.hubs.push(hub);
  }

  /** True while it lives and has that stream open. */
  holds(origin: Origin): boolean {
    const { registry } = this.#plane.parts;
    return (
      !this.process.dead && registry.holds(origin) && registry.get(origin.hostId)?.closed === false
    );
  }

  /** SIGKILL now, or at a statement or commit to come. */
  kill(afterStatements = 0): void {
    if (afterStatements === 0) this.process.die();
    else this.#database.crash.statementsLeft = afterStatements;
  }

  /** SIGSTOP … SIGCONT. */
  freeze(ms: number): void {
    this.process.frozenUntil = this.#world.scheduler.now + ms;
    this.#world.network.freeze(this.process, ms);
  }
}
