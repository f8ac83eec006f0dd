import { sql } from "drizzle-orm";
import type { Db } from "../index.ts";

/** A statement of this transaction that waits longer for a lock fails, and all of it. */
export async function limitLockWaits(tx: Db, ms: number): Promise<void> {
  await tx.execute(sql.raw(`set local lock_timeout = ${ms}`));
}
