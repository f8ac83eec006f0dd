import { and, eq, isNull, lt, sql } from "drizzle-orm";
import { LIMITS } from "../../../lib/limits.ts";
import type { Db } from "../index.ts";
import { idempotencyKeys } from "../schema/idempotency-keys.ts";
import { idempotencyReplies, type ReplyRow } from "../schema/idempotency-replies.ts";

export type Claim = { projectId: string; key: string; requestHash: string; machineId: string };

const expired = () =>
  lt(idempotencyKeys.createdAt, sql`now() - make_interval(secs => ${LIMITS.idempotencyKeyTtlS})`);

export async function pruneKeys(tx: Db): Promise<void> {
  await tx.delete(idempotencyKeys).where(expired());
  await tx.delete(idempotencyReplies).where(olderThan(LIMITS.idempotencyKeyTtlS));
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
  const taken = await tx
    .insert(idempotencyKeys)
    .values(claim)
    .onConflictDoUpdate({
      target: [idempotencyKeys.projectId, idempotencyKeys.key],
      set: { ...claim, createdAt: sql`now()` },
      setWhere: expired(),
    })
    .returning({ key: idempotencyKeys.key });
  if (taken.length > 0) return null;
  const [row] = await tx
    .select({ requestHash: idempotencyKeys.requestHash, machineId: idempotencyKeys.machineId })
    .from(idempotencyKeys)
    .where(and(eq(idempotencyKeys.projectId, claim.projectId), eq(idempotencyKeys.key, claim.key)));
  return row ?? null;
}

/** A key, and the request that has taken it. */
export type HeldKey = Pick<ReplyRow, "projectId" | "key" | "requestId">;

const olderThan = (seconds: number) =>
  lt(idempotencyReplies.createdAt, sql`now() - make_interval(secs => ${seconds})`);
const named = ({ projectId, key }: Pick<HeldKey, "projectId" | "key">) =>
  and(eq(idempotencyReplies.projectId, projectId), eq(idempotencyReplies.key, key));
const heldBy = (key: HeldKey) => and(named(key), eq(idempotencyReplies.requestId, key.requestId));

/**
 * Takes the key for a request; null = it is ours. Else what the request that has it
 * was answered, or has not been yet. One that is over, or whose request has not been
 * answered for so long that its process must be dead, is taken over.
 */
export async function claimReply(
  tx: Db,
  claim: HeldKey & Pick<ReplyRow, "requestHash">,
  abandonedAfterS: number,
): Promise<ReplyRow | null> {
  const unanswered = isNull(idempotencyReplies.status);
  const over = sql`${olderThan(LIMITS.idempotencyKeyTtlS)} or (${unanswered} and ${olderThan(abandonedAfterS)})`;
  const taken = await tx
    .insert(idempotencyReplies)
    .values(claim)
    .onConflictDoUpdate({
      target: [idempotencyReplies.projectId, idempotencyReplies.key],
      set: { ...claim, status: null, body: null, createdAt: sql`now()` },
      setWhere: over,
    })
    .returning({ key: idempotencyReplies.key });
  if (taken.length > 0) return null;
  const [row] = await tx.select().from(idempotencyReplies).where(named(claim));
  return row ?? null;
}

/** The request that holds the key is still being handled. */
export async function renewReply(tx: Db, key: HeldKey): Promise<void> {
  await tx
    .update(idempotencyReplies)
    .set({ createdAt: sql`now()` })
    .where(and(heldBy(key), isNull(idempotencyReplies.status)));
}

/** Nothing happens when another request has taken the key over. */
export async function storeReply(
  tx: Db,
  key: HeldKey,
  reply: { status: number; body: Uint8Array },
): Promise<void> {
  await tx.update(idempotencyReplies).set(reply).where(heldBy(key));
}

/** The request failed: the key is nobody's. */
export async function releaseReply(tx: Db, key: HeldKey): Promise<void> {
  await tx.delete(idempotencyReplies).where(heldBy(key));
}
