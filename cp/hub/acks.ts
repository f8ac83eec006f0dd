/**
 * What hosts have journalled, written together now and then: an Ack only spares the op's
 * repetition on the host's next stream. Most ops end before their Ack is written, and
 * one whose stream has ended is forgotten: its host may have come back without its journal.
 */
import { markAcked } from "../db/queries/ops.ts";
import type { Deps } from "../ops/deps.ts";
import type { Origin } from "../ops/report.ts";

/** More wait only when the database is away. */
const WAITING_MAX = 20_000;

export type Acking = { readonly origin: Origin; readonly closed: boolean };

export class Acks {
  readonly #deps: Deps;
  #waiting = new Map<string, Acking>();

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  note(opId: string, stream: Acking): void {
    if (this.#waiting.size < WAITING_MAX) this.#waiting.set(keyOf(opId, stream), stream);
  }

  /** The op has ended. */
  forget(opId: string, stream: Acking): void {
    this.#waiting.delete(keyOf(opId, stream));
  }

  async flush(): Promise<void> {
    const list = [...this.#waiting]
      .filter(([, stream]) => !stream.closed)
      .map(([key, { origin }]) => ({ opId: key.slice(origin.hostId.length + 1), ...origin }));
    this.#waiting = new Map();
    if (list.length > 0) await markAcked(this.#deps.database.relaxed, list);
  }
}

/** A host cannot speak of another's op. */
function keyOf(opId: string, { origin }: Acking): string {
  return `${origin.hostId} ${opId}`;
}
