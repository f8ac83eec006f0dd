import { and, asc, desc, eq, lt, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { events, type EventRow } from "../schema/events.ts";

export type NewEvent = Omit<typeof events.$inferInsert, "xid" | "sequence" | "createdAt">;

/** In the order given. */
export async function insertEvents(tx: Db, ...rows: NewEvent[]): Promise<void> {
  await tx.insert(events).values(rows);
}

export async function pruneEvents(tx: Db, olderThanS: number): Promise<void> {
  await tx
    .delete(events)
    .where(lt(events.createdAt, sql`now() - make_interval(secs => ${olderThanS})`));
}

/** Newest first; `before` is a sequence. */
export function listEvents(
  tx: Db,
  machineId: string,
  limit: number,
  before: number | null = null,
): Promise<EventRow[]> {
  return tx
    .select()
    .from(events)
    .where(
      and(
        eq(events.machineId, machineId),
        before === null ? undefined : lt(events.sequence, before),
      ),
    )
    .orderBy(desc(events.sequence))
    .limit(limit);
}

/** Where an event stands among all; transactions first, since sequences commit out of order. */
export type Position = { xid: number; sequence: number };

const settled = sql`${events.xid} < (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint`;

/** After it stands what is written from now on. */
export async function newestPosition(tx: Db): Promise<Position> {
  const [row] = await tx.execute<{ xmin: string }>(
    sql`select pg_snapshot_xmin(pg_current_snapshot())::text as xmin`,
  );
  return { xid: Number(row?.xmin ?? 0) - 1, sequence: Number.MAX_SAFE_INTEGER };
}

/** In order; nothing that could still get a predecessor. */
export function eventsAfter(
  tx: Db,
  filter: { projectId: string; machineId: string | undefined; after: Position },
  limit: number,
): Promise<EventRow[]> {
  const { xid, sequence } = filter.after;
  return tx
    .select()
    .from(events)
    .where(
      and(
        sql`(${events.xid}, ${events.sequence}) > (${xid}::bigint, ${sequence}::bigint)`,
        settled,
        eq(events.projectId, filter.projectId),
        filter.machineId === undefined ? undefined : eq(events.machineId, filter.machineId),
      ),
    )
    .orderBy(asc(events.xid), asc(events.sequence))
    .limit(limit);
}
