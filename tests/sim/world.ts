/**
 * One simulated life of a fleet: users ask, faults strike, and after every step the
 * invariants of docs/architecture.md hold. When the faults are over, everything has
 * to come to rest as the users last asked, within a bound.
 */
import { fromDatabase } from "../../cp/db/index.ts";
import { createMachine } from "../../cp/ops/create-machine.ts";
import { destroyMachine } from "../../cp/ops/destroy-machine.ts";
import { startMachine } from "../../cp/ops/start-machine.ts";
import { stopMachine } from "../../cp/ops/stop-machine.ts";
import { LvError } from "../../proto/errors.ts";
import { DEFAULT_PROJECT } from "../../proto/ids.ts";
import { MachineConfig } from "../../proto/rest.ts";
import { SimAgent } from "./agent.ts";
import { SharedStore, type Mutation } from "./database.ts";
import { RunLedger, Violation } from "./driver.ts";
import { checkHosts, checkRest, describeStore } from "./invariants.ts";
import { Network, type FrameMutation } from "./network.ts";
import { SimPlane } from "./plane.ts";
import { Random, seedProcess } from "./random.ts";
import { loadTables, SqlEngine } from "./sql.ts";
import { isDeath, Scheduler } from "./time.ts";

/** What a user was told, and what may have happened without their being told. */
export type Promised = {
  id: string;
  /** The last request that was answered. */
  wish: "started" | "stopped" | "destroyed";
  /** A later request broke off: either outcome is right. */
  unsure: boolean;
  /** One request at a time, so that the order of answers is the order of commits. */
  busy: boolean;
};

export type Bugs = { sql?: Mutation; frame?: FrameMutation };
export type Outcome = { seed: number; steps: number; machines: number };

const HOSTS = 3;
const REPLICAS = 2;
const ACTIVE_MS = 12_000;
/** Back-off of the link, its slow return after SUPERSEDED, and two reconcile periods. */
const CONVERGE_MS = 70_000;
const REQUESTS = 14;
const FAULTS = 5;

/** Made once: it is the prepared statements that make it quick. */
const ENGINE = new SqlEngine(await loadTables());

/** Throws Violation; the message names the seed. */
export async function simulate(seed: number, bugs: Bugs = {}): Promise<Outcome> {
  using _ = seedProcess(seed);
  const life = new Life(seed, bugs);
  try {
    return await life.run();
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    throw new Violation(`seed ${seed}: ${error.message}\n${life.story.join("\n")}`);
  } finally {
    life[Symbol.dispose]();
    // A transaction that was open is rolled back by its own process before the next life begins.
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

class Life implements Disposable {
  readonly story: string[] = [];
  readonly #seed: number;
  readonly #random: Random;
  readonly #scheduler = new Scheduler();
  readonly #engine = ENGINE;
  readonly #store: SharedStore;
  readonly #ledger = new RunLedger();
  readonly #network: Network;
  readonly #agents: SimAgent[] = [];
  readonly #promised = new Map<string, Promised>();
  /** Idempotency keys given out. */
  #keys = 0;
  readonly #planes: SimPlane[] = [];
  #begun = 0;
  #checkedWrites = -1;

  constructor(seed: number, bugs: Bugs) {
    this.#seed = seed;
    this.#random = new Random(seed);
    const random = this.#random;
    this.#engine.reset();
    this.#engine.now = () => this.#scheduler.now;
    this.#store = new SharedStore(this.#engine, bugs.sql);
    const rare = (): number => (random.chance(0.5) ? 0 : random.next() * 0.04);
    const faults = {
      duplicate: rare(),
      swap: rare(),
      lose: rare() / 4,
      vanish: rare() / 4,
      slow: rare(),
    };
    // Frames are counted: a repeated one would stand in for the one that is missing.
    if (faults.duplicate > 0) faults.vanish = 0;
    this.#network = new Network(this.#scheduler, random, faults, bugs.frame);
    this.#store.notify = (payload) => this.#notify(payload);
  }

  async run(): Promise<Outcome> {
    const { now } = this.#scheduler;
    this.#begun = now;
    this.#engine.run(`insert into "projects" ("id", "name", "created_at") values ($1, $2, now())`, [
      DEFAULT_PROJECT,
      "default",
    ]);
    for (let number = 0; number < REPLICAS; number += 1) {
      const plane = new SimPlane(`cp-${number}`, this.#world());
      this.#planes.push(plane);
      await this.#drive(plane.start());
    }
    for (let number = 0; number < HOSTS; number += 1) {
      const skew = this.#random.chance(0.3) ? this.#random.between(-600_000, 600_000) : 0;
      const world = this.#world();
      const agent = new SimAgent(`host-${number}`, world, skew);
      this.#agents.push(agent);
      void agent.start();
    }
    for (let n = 0; n < REQUESTS; n += 1)
      this.#at(this.#random.between(100, ACTIVE_MS), () => void this.#request());
    for (let n = 0; n < FAULTS; n += 1)
      this.#at(this.#random.between(500, ACTIVE_MS), () => this.#fault());
    await this.#until(now + ACTIVE_MS);
    this.#tell("the faults are over");
    this.#network.heal();
    await this.#settle();
    return { seed: this.#seed, steps: this.#scheduler.steps, machines: this.#promised.size };
  }

  [Symbol.dispose](): void {
    for (const plane of this.#planes) plane.process.die();
    for (const agent of this.#agents) agent[Symbol.dispose]();
  }

  #world() {
    return {
      scheduler: this.#scheduler,
      random: this.#random,
      network: this.#network,
      ledger: this.#ledger,
      store: this.#store,
    };
  }

  /** Lost as often as not: it is a hint. */
  #notify(payload: string): void {
    if (this.#random.chance(0.5)) return;
    for (const listener of this.#store.listeners)
      this.#at(this.#random.between(0, 5), () => listener(payload));
  }

  /** Any that is alive; when none is, requests fail at once. */
  #anyPlane(): SimPlane {
    const alive = this.#planes.filter(({ process }) => !process.dead);
    return this.#random.pick(alive.length === 0 ? this.#planes : alive);
  }

  #tell(line: string): void {
    this.story.push(`${String(this.#scheduler.now - this.#begun).padStart(7)} ms  ${line}`);
  }

  #at(ms: number, work: () => void): void {
    this.#scheduler.after(ms, null, work);
  }

  async #step(until: number): Promise<boolean> {
    const went = await this.#scheduler.step(until);
    if (this.#ledger.violation !== null) throw this.#ledger.violation;
    if (this.#engine.writes !== this.#checkedWrites) {
      checkHosts(this.#engine, (origin) => this.#planes.some((plane) => plane.holds(origin)));
      this.#checkedWrites = this.#engine.writes;
    }
    return went;
  }

  async #until(time: number): Promise<void> {
    while (await this.#step(time)) continue;
  }

  /** Steps until the promise has settled. */
  async #drive(promise: Promise<void>): Promise<void> {
    let done = false;
    void promise.then(() => (done = true));
    for (let steps = 0; !done; steps += 1) {
      if (steps > 10_000) throw new Violation("the control plane does not start");
      await this.#step(Number.POSITIVE_INFINITY);
    }
  }

  async #settle(): Promise<void> {
    const by = this.#scheduler.now + CONVERGE_MS;
    for (;;) {
      await this.#until(Math.min(by, this.#scheduler.now + 2_500));
      const wrong = checkRest(this.#engine, this.#agents, this.#ledger, this.#promised);
      if (wrong === null) return;
      if (this.#scheduler.now >= by || !(await this.#step(by)))
        throw new Violation(
          `not at rest ${CONVERGE_MS / 1000} s after the last fault: ${wrong}\n${describeStore(this.#engine)}`,
        );
    }
  }

  async #request(): Promise<void> {
    const known = [...this.#promised.values()].filter(
      ({ wish, busy }) => wish !== "destroyed" && !busy,
    );
    if (known.length < 3 || this.#random.chance(0.4)) return this.#create();
    const machine = this.#random.pick(known);
    const roll = this.#random.next();
    const wish = roll < 0.4 ? "stopped" : roll < 0.75 ? "started" : "destroyed";
    this.#tell(`ask ${machine.id} to be ${wish}`);
    machine.busy = true;
    const { deps, died } = this.#anyPlane();
    const stop = { signal: undefined, timeoutSeconds: undefined };
    const work =
      wish === "stopped"
        ? stopMachine(deps, machine.id, stop)
        : wish === "started"
          ? startMachine(deps, machine.id)
          : destroyMachine(deps, machine.id);
    try {
      await Promise.race([work, died]);
      if (machine.wish !== "destroyed") machine.wish = wish;
      machine.unsure = false;
    } catch (error) {
      this.#mustBeExpected(error);
      // Refused (no room, wrong state) is an answer; everything else leaves it open.
      const { reason } = LvError.from(fromDatabase(error));
      if (reason === "INTERNAL" || reason === "DATABASE_UNAVAILABLE") machine.unsure = true;
      this.#tell(`  ${machine.id}: ${reason}`);
    } finally {
      machine.busy = false;
    }
  }

  /** A user gets an error of the table, or sees the connection break. */
  #mustBeExpected(error: unknown): void {
    if (fromDatabase(error) instanceof LvError || isDeath(error)) return;
    this.#ledger.violation ??=
      error instanceof Violation ? error : new Violation(Bun.inspect(error));
  }

  /** With an idempotency key, asked again until it is answered. */
  async #create(): Promise<void> {
    this.#keys += 1;
    const key = `key-${this.#keys}`;
    const cmd = this.#random.chance(0.15) ? ["exit"] : ["idle"];
    const config = MachineConfig.parse({
      image: "busybox",
      init: { cmd },
      guest: { cpus: 1, memory_mb: this.#random.pick([64, 128, 256]), disk_mb: 64 },
    });
    const idempotency = { key, requestHash: "hash" };
    const request = { projectId: DEFAULT_PROJECT, name: undefined, config, idempotency };
    let first: string | null = null;
    for (let attempt = 0; attempt < 50; attempt += 1) {
      const { deps, died } = this.#anyPlane();
      try {
        const { id } = await Promise.race([createMachine(deps, request), died]);
        if (first !== null && first !== id)
          throw new Violation(`one Idempotency-Key made ${first} and ${id}`);
        if (first === null)
          this.#promised.set(id, { id, wish: "started", unsure: false, busy: false });
        this.#tell(`created ${id} (${cmd[0]})`);
        // A client that did not hear the answer asks again.
        if (first !== null || this.#random.chance(0.8)) return;
        first = id;
      } catch (error) {
        this.#mustBeExpected(error);
      }
      await this.#scheduler.sleep(this.#random.between(100, 1_000));
    }
  }

  #fault(): void {
    const agent = this.#random.pick(this.#agents);
    const ms = this.#random.between(50, this.#random.pick([500, 5_000, 20_000]));
    const plane = this.#random.pick(this.#planes);
    const { name } = agent.host;
    const cp = plane.process.name;
    switch (this.#random.between(0, 6)) {
      case 0:
        this.#tell(`${name}: agent killed for ${ms} ms`);
        return this.#killAgent(agent, ms);
      case 1:
        this.#tell(`${name}: agent will die at a journal write`);
        agent.kill(this.#random.between(1, 12));
        agent.process.onDeath(() => this.#restartAgent(agent, ms));
        return;
      case 2:
        this.#tell(`${cp} killed for ${ms} ms`);
        return this.#killPlane(plane, 0, ms);
      case 3:
        this.#tell(`${cp} will die at a statement`);
        return this.#killPlane(plane, this.#random.between(1, 60), ms);
      case 4:
        this.#tell(`${cp} frozen for ${ms} ms`);
        return plane.freeze(ms);
      case 5:
        this.#tell(`${name}: cut off for ${ms} ms`);
        return this.#network.cut(agent.process, ms);
      default:
        if (this.#random.chance(0.5)) {
          this.#tell(`PostgreSQL away for ${ms} ms`);
          this.#store.awayUntil = this.#scheduler.now + ms;
          return;
        }
        this.#tell(`${name}: rebooted, back in ${ms} ms`);
        agent.host.reboot(this.#ledger);
        return this.#killAgent(agent, ms);
    }
  }

  #killAgent(agent: SimAgent, ms: number): void {
    if (agent.process.dead) return;
    agent.process.onDeath(() => this.#restartAgent(agent, ms));
    agent.kill();
  }

  #restartAgent(agent: SimAgent, ms: number): void {
    const died = agent.process;
    // Several faults may have asked for it; the first one counts.
    this.#at(ms, () => {
      if (agent.process !== died) return;
      this.#tell(`${agent.host.name}: agent starts`);
      void agent.start();
    });
  }

  #killPlane(plane: SimPlane, afterStatements: number, ms: number): void {
    if (plane.process.dead) return;
    plane.process.onDeath(() => this.#at(ms, () => this.#restartPlane(plane)));
    plane.kill(afterStatements);
  }

  #restartPlane(died: SimPlane): void {
    const at = this.#planes.indexOf(died);
    if (at < 0) return;
    this.#tell(`${died.process.name} starts`);
    const plane = new SimPlane(died.process.name, this.#world());
    this.#planes[at] = plane;
    void plane.start().catch(() => {
      // The database is away: systemd tries again.
      plane.process.die();
      this.#at(1_000, () => this.#restartPlane(plane));
    });
  }
}
