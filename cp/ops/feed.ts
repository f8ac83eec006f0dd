/**
 * All events of a project as one endless sequence, from the database, so that any
 * replica can serve it and a reader that comes back misses nothing. A position is
 * (transaction, sequence): what is below the oldest running transaction never
 * changes any more, and nothing is handed on before it is.
 */
import { LvError } from "../../proto/errors.ts";
import { eventsAfter, newestPosition, type Position } from "../db/queries/events.ts";
import type { EventRow } from "../db/schema/events.ts";
import type { Deps } from "./deps.ts";

const BATCH = 200;
const POLL_MS = 1_000;

/** `xid.sequence`. Throws BAD_REQUEST. */
export function parsePosition(text: string): Position {
  const match = /^(\d{1,15})\.(\d{1,15})$/.exec(text);
  if (match === null)
    throw new LvError("BAD_REQUEST", `"${text.slice(0, 40)}" is no position of the event stream`);
  return { xid: Number(match[1]), sequence: Number(match[2]) };
}

export function positionOf(row: EventRow): string {
  return `${row.xid}.${row.sequence}`;
}

/** Without `after`, what happens from now on. Ends when the signal aborts. */
export async function* followEvents(
  deps: Deps,
  request: { projectId: string; machineId: string | undefined; after: Position | undefined },
  signal: AbortSignal,
): AsyncGenerator<EventRow> {
  const { db } = deps.database;
  const stop = new AbortController();
  const ended = AbortSignal.any([signal, stop.signal]);
  let wake: () => void = () => undefined;
  const unsubscribe = deps.changes.subscribe("*", () => wake());
  try {
    let after = request.after ?? (await newestPosition(db));
    while (!signal.aborted) {
      const changed = new Promise<void>((resolve) => (wake = resolve));
      const rows = await eventsAfter(db, { ...request, after }, BATCH);
      for (const row of rows) {
        yield row;
        after = { xid: row.xid, sequence: row.sequence };
      }
      if (rows.length < BATCH)
        await Promise.race([changed, deps.clock.sleep(POLL_MS, ended)]).catch(() => undefined);
    }
  } finally {
    stop.abort();
    unsubscribe();
  }
}
