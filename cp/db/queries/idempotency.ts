import { and, eq, lt, sql } from "drizzle-orm";
import { LIMITS } from "../../../lib/limits.ts";
import type { Db } from "../index.ts";
import { idempotencyKeys } from "../schema/idempotency-keys.ts";

export type Claim = { projectId: string; key: string; requestHash: string; machineId: string };

const expired = () =>
  lt(idempotencyKeys.createdAt, sql`now() - make_interval(secs => ${LIMITS.idempotencyKeyTtlS})`);

export async function pruneKeys(tx: Db): Promise<void> {
  await tx.delete(idempotencyKeys).where(expired());
}

/**
 * Takes the key for this transaction. When it is taken already, waits for the
 * other transaction to end and returns what it wrote; null = the key is ours.
 */
export async function claimKey(
  tx: Db,
  claim: Claim,
): Promise<{ requestHash: string; machineId: string } | null> {
  // One that is over is nobody's: the periodic pruning may not have come by yet.
  await tx
    .delete(idempotencyKeys)
    .where(
      and(
        eq(idempotencyKeys.projectId, claim.projectId),
        eq(idempotencyKeys.key, claim.key),
        expired(),
      ),
    );
  const inserted = await tx
    .insert(idempotencyKeys)
    .values(claim)
    .onConflictDoNothing()
    .returning({ key: idempotencyKeys.key });
  if (inserted.length > 0) return null;
  const [row] = await tx
    .select({ requestHash: idempotencyKeys.requestHash, machineId: idempotencyKeys.machineId })
    .from(idempotencyKeys)
    .where(and(eq(idempotencyKeys.projectId, claim.projectId), eq(idempotencyKeys.key, claim.key)));
  return row ?? null;
}
