/**
 * Tells the other replicas what has changed and which host has something to be sent,
 * by NOTIFY. A hint only: every reader polls too, so that the loss of a notification,
 * or of all of them behind a pooler, costs time and nothing else.
 */
import { z } from "zod";
import type { Database } from "../db/index.ts";
import type { Log } from "../../lib/log.ts";
import { MACHINE_STATES } from "../../proto/states.ts";
import type { Change } from "./changes.ts";

const Hint = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("machine"), id: z.string(), state: z.enum(MACHINE_STATES) }),
  z.object({ kind: z.literal("host"), id: z.string() }),
  z.object({ kind: z.literal("wake"), id: z.string() }),
]);
export type Hint = z.infer<typeof Hint>;
const Message = z.object({ from: z.string(), hints: z.array(Hint) });

/** PostgreSQL takes payloads of less than 8,000 bytes; a hint has about 70. */
const HINTS_PER_MESSAGE = 64;
/** More than these wait for the database only when it is away; the polls make up for the rest. */
const HINTS_MAX = 4_096;

export class Relay {
  readonly #database: Database;
  readonly #replicaId: string;
  readonly #log: Log;
  readonly #waiting: Hint[] = [];
  #sending = false;

  constructor(database: Database, replicaId: string, log: Log) {
    this.#database = database;
    this.#replicaId = replicaId;
    this.#log = log;
  }

  /** Returns at once; what is told in the same moment goes in one message. */
  tell(hint: Hint): void {
    if (this.#waiting.length < HINTS_MAX) this.#waiting.push(hint);
    if (this.#sending) return;
    this.#sending = true;
    void this.#send();
  }

  /** Calls back with each hint of the other replicas, until the result is disposed of. */
  listen(on: { changed: (change: Change) => void; wake: (hostId: string) => void }) {
    return this.#database.listen((payload) => {
      const message = parse(payload);
      if (message === null || message.from === this.#replicaId) return;
      for (const hint of message.hints)
        if (hint.kind === "wake") on.wake(hint.id);
        else on.changed(hint);
    });
  }

  async #send(): Promise<void> {
    // Lets the caller finish, whose next hints may follow at once.
    await Promise.resolve();
    try {
      while (this.#waiting.length > 0) {
        const hints = this.#waiting.splice(0, HINTS_PER_MESSAGE);
        await this.#database.notify(JSON.stringify({ from: this.#replicaId, hints }));
      }
    } catch (error) {
      this.#waiting.length = 0;
      this.#log.debug({ err: error }, "cannot notify the other replicas");
    } finally {
      this.#sending = false;
    }
  }
}

function parse(payload: string): z.infer<typeof Message> | null {
  try {
    return Message.parse(JSON.parse(payload));
  } catch {
    // A newer replica may say what this one does not know.
    return null;
  }
}
