/**
 * Stores the Results of all streams. The first goes at once; those that come while it is
 * being stored go together in the next transaction, so that the busier the hub is, the
 * less one costs. A stream waits for its Result, so its frames keep their order.
 *
 *   waiting ─┬─ plain, with others ─→ one transaction ─→ answered
 *            └─ else, or when that fails ─→ one of its own ─→ answered, or its error
 */
import { isPlain, type OpResult, type Said, storeResult, storeResults } from "../ops/result.ts";
import type { Deps } from "../ops/deps.ts";
import type { Origin } from "../ops/report.ts";

/** Results in one transaction: it locks their machines while it lasts. */
const BATCH = 64;
/** Transactions at a time; more than one only when more wait than one may take. */
const LANES = 4;

type Waiting = Said & {
  resolve: (stored: boolean) => void;
  reject: (error: unknown) => void;
};

export class Results {
  readonly #deps: Deps;
  #waiting: Waiting[] = [];
  #lanes = 0;

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** As storeResult. */
  store(origin: Origin, result: OpResult): Promise<boolean> {
    // What may fail or wait on its own account holds up nobody.
    if (!isPlain(result)) return storeResult(this.#deps, origin, result);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ origin, result, resolve, reject });
      const full = this.#waiting.length >= BATCH && this.#lanes < LANES;
      if (this.#lanes === 0 || full) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#lanes += 1;
    for (let batch = this.#next(); batch.length > 0; batch = this.#next()) await this.#store(batch);
    this.#lanes -= 1;
  }

  /** The oldest, of different hosts and machines; the rest stays in order. */
  #next(): Waiting[] {
    const batch: Waiting[] = [];
    const rest: Waiting[] = [];
    const taken = new Set<string>();
    for (const one of this.#waiting) {
      const keys = [one.origin.hostId, one.result.machineId];
      if (batch.length === BATCH || keys.some((key) => taken.has(key))) {
        rest.push(one);
        continue;
      }
      for (const key of keys) taken.add(key);
      batch.push(one);
    }
    this.#waiting = rest;
    return batch;
  }

  async #store(batch: Waiting[]): Promise<void> {
    try {
      const stored = await storeResults(this.#deps, batch);
      for (const [at, { resolve }] of batch.entries()) resolve(stored[at] === true);
    } catch (error) {
      this.#deps.log.debug({ results: batch.length, err: error }, "storing Results one by one");
      // Not waited for: one that waits for a lock holds up its own stream only.
      for (const one of batch) void this.#storeAlone(one);
    }
  }

  async #storeAlone({ origin, result, resolve, reject }: Waiting): Promise<void> {
    try {
      resolve(await storeResult(this.#deps, origin, result));
    } catch (error) {
      reject(error);
    }
  }
}
