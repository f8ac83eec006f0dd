/** What has served its time. Safe at any moment, in any number of processes at once. */
import { LIMITS } from "../../lib/limits.ts";
import { pruneAudit } from "../db/queries/audit.ts";
import { pruneEvents } from "../db/queries/events.ts";
import { pruneImageJobs } from "../db/queries/image-jobs.ts";
import { pruneKeys } from "../db/queries/idempotency.ts";
import { pruneOps } from "../db/queries/ops.ts";
import type { Deps } from "./deps.ts";

export async function prune(deps: Deps): Promise<void> {
  const { db } = deps.database;
  await pruneKeys(db);
  await pruneOps(db, LIMITS.opsKeptS);
  await pruneImageJobs(db, LIMITS.eventsKeptS);
  await pruneEvents(db, LIMITS.eventsKeptS);
  await pruneAudit(db, LIMITS.auditKeptS);
}
