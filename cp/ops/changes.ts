/**
 * Who waits for what, inside this process. Fed after commit, so that a woken
 * reader always sees the change; a reader subscribes before it reads, so that no
 * change falls in between. Other replicas are told through the relay, which may lose
 * what it is given: whoever waits looks into the database now and then as well.
 */
import type { MachineState } from "../../proto/states.ts";

export type Change =
  { kind: "machine"; id: string; state: MachineState } | { kind: "host"; id: string };

type Listener = (change: Change) => void;

export class Changes {
  readonly #listeners = new Map<string, Set<Listener>>();
  readonly #relay: Listener | undefined;

  constructor(relay?: Listener) {
    this.#relay = relay;
  }

  /** Calls the listener for each change of the machine or host, of all for "*"; returns the way to stop it. */
  subscribe(id: string, listener: Listener): () => void {
    const listeners = this.#listeners.get(id) ?? new Set();
    this.#listeners.set(id, listeners);
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0 && this.#listeners.get(id) === listeners) this.#listeners.delete(id);
    };
  }

  publish(change: Change): void {
    this.deliver(change);
    this.#relay?.(change);
  }

  /** What another replica has published. */
  deliver(change: Change): void {
    for (const listener of this.#listeners.get(change.id) ?? []) listener(change);
    for (const listener of this.#listeners.get("*") ?? []) listener(change);
  }

  /** Subscriptions that are open; a test asks that none is left behind. */
  get size(): number {
    let total = 0;
    for (const listeners of this.#listeners.values()) total += listeners.size;
    return total;
  }
}
