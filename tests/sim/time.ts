/**
 * Virtual time. One queue of events, ordered by time and then by arrival; an event
 * runs only when every promise of the one before has settled as far as it can, so
 * that a run depends on its seed alone.
 *
 * An event may belong to a process. A dead process's events are dropped, a frozen
 * one's wait until it thaws.
 */
import { abortReason, type Clock } from "../../lib/clock.ts";

/** What a process's own code meets when it goes on after its death. */
export class Death extends Error {}

/** True for Death and for what a library made of it. */
export function isDeath(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) if (at instanceof Death) return true;
  return false;
}

export class SimProcess {
  readonly name: string;
  dead = false;
  /** Virtual time until which nothing of it runs. */
  frozenUntil = 0;
  #onDeath: (() => void)[] = [];

  constructor(name: string) {
    this.name = name;
  }

  onDeath(listener: () => void): void {
    this.#onDeath.push(listener);
  }

  /** SIGKILL. */
  die(): void {
    if (this.dead) return;
    this.dead = true;
    for (const listener of this.#onDeath) listener();
  }
}

type Event = { at: number; order: number; owner: SimProcess | null; run: () => void };

export class Scheduler {
  now = Date.UTC(2030, 0, 1);
  steps = 0;
  #order = 0;
  readonly #heap: Event[] = [];

  /** Returns the way to take it back. */
  after(ms: number, owner: SimProcess | null, run: () => void): () => void {
    const event = { at: this.now + Math.max(0, ms), order: (this.#order += 1), owner, run };
    this.#push(event);
    return () => (event.run = nothing);
  }

  sleep(ms: number, owner: SimProcess | null = null): Promise<void> {
    return new Promise((resolve) => this.after(ms, owner, resolve));
  }

  /** Runs the next event; false when there is none before `until`. */
  async step(until: number): Promise<boolean> {
    // setImmediate comes after every microtask, those that microtasks queue included.
    await new Promise<void>((resolve) => setImmediate(resolve));
    const event = this.#heap[0];
    if (event === undefined || event.at > until) return false;
    this.#pop();
    this.now = event.at;
    const { owner } = event;
    if (owner?.dead === true || event.run === nothing) return true;
    if (owner !== null && owner.frozenUntil > this.now) {
      this.#push({ ...event, at: owner.frozenUntil });
      return true;
    }
    this.steps += 1;
    event.run();
    return true;
  }

  clockOf(owner: SimProcess, skewMs = 0): Clock {
    return {
      now: () => this.now + skewMs,
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          if (signal?.aborted === true) return reject(abortReason(signal));
          const onAbort = (): void => {
            cancel();
            if (signal !== undefined) reject(abortReason(signal));
          };
          const cancel = this.after(ms, owner, () => {
            signal?.removeEventListener("abort", onAbort);
            resolve();
          });
          signal?.addEventListener("abort", onAbort, { once: true });
        }),
    };
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent])) break;
      heap[at] = heap[parent] ?? event;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      const right = heap[child + 1];
      if (right !== undefined && before(right, heap[child])) child += 1;
      const next = heap[child];
      if (next === undefined || !before(next, last)) break;
      heap[at] = next;
      at = child;
    }
    heap[at] = last;
  }
}

const nothing = (): void => undefined;

function before(a: Event, b: Event | undefined): boolean {
  return b === undefined || a.at < b.at || (a.at === b.at && a.order < b.order);
}
