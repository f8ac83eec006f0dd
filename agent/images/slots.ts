/** At most so many at a time, in the order they came; waiting ends with the signal's reason. */
import { abortReason } from "../../lib/clock.ts";

export class Slots {
  #free: number;
  readonly #queue: (() => void)[] = [];
  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#take(signal);
    try {
      return await work();
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#free += 1;
      else next(); // the slot goes from hand to hand
    }
  }

  async #take(signal: AbortSignal): Promise<void> {
    if (signal.aborted) throw abortReason(signal);
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    const turn = Promise.withResolvers<void>();
    const leave = (): void => {
      const at = this.#queue.indexOf(turn.resolve);
      if (at >= 0) this.#queue.splice(at, 1);
      turn.reject(abortReason(signal));
    };
    this.#queue.push(turn.resolve);
    signal.addEventListener("abort", leave, { once: true });
    try {
      await turn.promise;
    } finally {
      signal.removeEventListener("abort", leave);
    }
  }
}
