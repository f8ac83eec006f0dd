/**
 * cp/db's `Database` over the simulator's SQL engine. One transaction at a time, in
 * the order in which they ask. Each takes some virtual time before it begins and
 * after it committed, so that processes meet in between, and every statement and
 * commit is a point at which the process may die.
 */
import { fromDatabase, type Database, type Db } from "../../cp/db/index.ts";
import type { Random } from "./random.ts";
import { quickDrizzle } from "./quick-drizzle.ts";
import type { SqlEngine } from "./sql.ts";
import { Death, type Scheduler, type SimProcess } from "./time.ts";

/** Changes the SQL on its way: how a bug is planted without touching the product. */
export type Mutation = (sql: string) => string;

export class SharedStore {
  readonly engine: SqlEngine;
  readonly mutate: Mutation;
  /** Virtual time until which the server does not answer. */
  awayUntil = 0;
  #tail: Promise<void> = Promise.resolve();

  /** NOTIFY: heard by those who listen, or lost. */
  readonly listeners = new Set<(payload: string) => void>();
  notify: (payload: string) => void = () => undefined;

  constructor(engine: SqlEngine, mutate: Mutation = (sql) => sql) {
    this.engine = engine;
    this.mutate = mutate;
  }

  /** The engine is the caller's until it calls what it was given. */
  async lock(): Promise<() => void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const before = this.#tail;
    this.#tail = promise;
    await before;
    return resolve;
  }
}

export type Crash = {
  /** Statements and commits until the process dies; infinite when it does not. */
  statementsLeft: number;
};

export class SimDatabase implements Database {
  readonly db: Db;
  readonly relaxed: Db;
  readonly #store: SharedStore;
  readonly #process: SimProcess;
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly crash: Crash = { statementsLeft: Number.POSITIVE_INFINITY };

  constructor(store: SharedStore, process: SimProcess, scheduler: Scheduler, random: Random) {
    this.#store = store;
    this.#process = process;
    this.#scheduler = scheduler;
    this.#random = random;
    this.db = quickDrizzle(async (sql, params) => {
      await this.#pause();
      const unlock = await store.lock();
      try {
        return this.#statement(sql, params);
      } finally {
        unlock();
      }
    });
    this.relaxed = this.db;
  }

  async transaction<T>(work: (tx: Db) => Promise<T>): Promise<T> {
    await this.#pause();
    const { engine } = this.#store;
    const unlock = await this.#store.lock();
    let value: T;
    try {
      this.#mayDie();
      engine.exec("BEGIN");
      try {
        const tx = quickDrizzle((sql, params) =>
          Promise.resolve().then(() => this.#statement(sql, params)),
        );
        value = await work(tx);
        this.#mayDie();
        engine.exec("COMMIT");
      } catch (error) {
        engine.exec("ROLLBACK");
        // As cp/db does.
        throw fromDatabase(error);
      }
    } finally {
      unlock();
    }
    await this.#pause();
    // Committed, and nobody has been told.
    this.#mayDie();
    return value;
  }

  ping(): Promise<void> {
    return Promise.resolve();
  }

  notify(payload: string): Promise<void> {
    this.#store.notify(payload);
    return Promise.resolve();
  }

  listen(onPayload: (payload: string) => void): Promise<AsyncDisposable> {
    const { listeners } = this.#store;
    listeners.add(onPayload);
    this.#process.onDeath(() => listeners.delete(onPayload));
    return Promise.resolve({ [Symbol.asyncDispose]: () => Promise.resolve() });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  #statement(sql: string, params: unknown[]): unknown[][] {
    this.#mayDie();
    if (this.#store.awayUntil > this.#scheduler.now)
      throw Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" });
    return this.#store.engine.run(this.#store.mutate(sql), params);
  }

  /** A frozen process goes on when it thaws; a dead one never. */
  #pause(): Promise<void> {
    const ms = this.#random.chance(0.05)
      ? this.#random.between(5, 300)
      : this.#random.between(0, 2);
    return this.#scheduler.sleep(ms, this.#process);
  }

  #mayDie(): void {
    if (!this.#process.dead && (this.crash.statementsLeft -= 1) <= 0) this.#process.die();
    if (this.#process.dead) throw new Death(`${this.#process.name} is dead`);
  }
}
