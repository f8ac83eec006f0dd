/**
 * At most so many at a time, in the order they came; waiting ends with the signal's reason. Who
 * waits is told its place, from 1, whenever that changes.
 */
import { abortReason } from "../../lib/clock.ts";

type Waiter = { go: () => void; onPlace: (place: number) => void };

export class Slots {
  #free: number;
  readonly #queue: Waiter[] = [];
  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(
    signal: AbortSignal,
    work: () => Promise<T>,
    onPlace: (place: number) => void = () => undefined,
  ): Promise<T> {
    await this.#take(signal, onPlace);
    try {
      return await work();
    } finally {
      const next = this.#queue.shift();
      if (next === undefined) this.#free += 1;
      else next.go(); // the slot goes from hand to hand
      this.#tellPlaces();
    }
  }

  #tellPlaces(): void {
    for (const [index, { onPlace }] of this.#queue.entries()) onPlace(index + 1);
  }

  async #take(signal: AbortSignal, onPlace: (place: number) => void): Promise<void> {
    if (signal.aborted) throw abortReason(signal);
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    const turn = Promise.withResolvers<void>();
    const waiter: Waiter = { go: turn.resolve, onPlace };
    const leave = (): void => {
      const at = this.#queue.indexOf(waiter);
      if (at >= 0) this.#queue.splice(at, 1);
      turn.reject(abortReason(signal));
      this.#tellPlaces();
    };
    this.#queue.push(waiter);
    onPlace(this.#queue.length);
    signal.addEventListener("abort", leave, { once: true });
    try {
      await turn.promise;
    } finally {
      signal.removeEventListener("abort", leave);
    }
  }
}
