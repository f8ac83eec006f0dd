/**
 * Heartbeats of all streams, written together: thousands of hosts would otherwise cost
 * thousands of transactions every few seconds. A stream that turns out not to be its
 * host's newest is closed. What could not be written comes again with the next beat.
 */
import { touchHosts } from "../db/queries/hosts.ts";
import type { Deps } from "../ops/deps.ts";
import type { Origin } from "../ops/report.ts";

/** Hosts in one statement: their rows are locked while it runs. */
const BATCH = 250;

export type Beating = { readonly origin: Origin; close(): void };

export class Heartbeats {
  readonly #deps: Deps;
  readonly #replicaId: string;
  #heard = new Map<string, Beating>();

  constructor(deps: Deps, replicaId: string) {
    this.#deps = deps;
    this.#replicaId = replicaId;
  }

  note(stream: Beating): void {
    this.#heard.set(stream.origin.hostId, stream);
  }

  async flush(): Promise<void> {
    const heard = [...this.#heard.values()];
    this.#heard = new Map();
    for (let at = 0; at < heard.length; at += BATCH) {
      const batch = heard.slice(at, at + BATCH);
      const ids = batch.map(({ origin }) => origin.hostId);
      const rows = await touchHosts(this.#deps.database.relaxed, this.#replicaId, ids);
      const epochs = new Map(rows.map(({ id, epoch }) => [id, epoch]));
      for (const stream of batch)
        if (epochs.get(stream.origin.hostId) !== stream.origin.epoch) stream.close();
    }
  }
}
