import { desc, eq, lt, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { events, type EventRow } from "../schema/events.ts";

export type NewEvent = Omit<typeof events.$inferInsert, "xid" | "sequence" | "createdAt">;

export async function insertEvent(tx: Db, event: NewEvent): Promise<void> {
  await tx.insert(events).values(event);
}

export async function pruneEvents(tx: Db, olderThanS: number): Promise<void> {
  await tx
    .delete(events)
    .where(lt(events.createdAt, sql`now() - make_interval(secs => ${olderThanS})`));
}

/** Newest first. */
export function listEvents(tx: Db, machineId: string, limit: number): Promise<EventRow[]> {
  return tx
    .select()
    .from(events)
    .where(eq(events.machineId, machineId))
    .orderBy(desc(events.sequence))
    .limit(limit);
}
