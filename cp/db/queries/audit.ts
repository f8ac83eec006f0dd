import { and, desc, eq, lt, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { audit, type AuditRow } from "../schema/audit.ts";

export async function insertAudit(
  tx: Db,
  entry: Omit<AuditRow, "sequence" | "createdAt">,
): Promise<void> {
  await tx.insert(audit).values(entry);
}

/** Newest first; null = of every project. `before` is a sequence. */
export function listAudit(
  tx: Db,
  filter: { projectId: string | null; before: number | null; limit: number },
): Promise<AuditRow[]> {
  return tx
    .select()
    .from(audit)
    .where(
      and(
        filter.projectId === null ? undefined : eq(audit.projectId, filter.projectId),
        filter.before === null ? undefined : lt(audit.sequence, filter.before),
      ),
    )
    .orderBy(desc(audit.sequence))
    .limit(filter.limit);
}

export async function pruneAudit(tx: Db, olderThanS: number): Promise<void> {
  await tx
    .delete(audit)
    .where(lt(audit.createdAt, sql`now() - make_interval(secs => ${olderThanS})`));
}
