import { and, eq, gt, isNull, lt, or, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { joinTokens } from "../schema/join-tokens.ts";

/** By the database's clock, as everything that expires. Returns when it does. */
export async function insertJoinToken(
  tx: Db,
  token: { id: string; secretHash: string; ttlSeconds: number },
): Promise<Date> {
  const { id, secretHash, ttlSeconds } = token;
  const [row] = await tx
    .insert(joinTokens)
    .values({ id, secretHash, expiresAt: sql`now() + make_interval(secs => ${ttlSeconds})` })
    .returning({ expiresAt: joinTokens.expiresAt });
  if (row === undefined) throw new Error("insert returned no row");
  return row.expiresAt;
}

/** Spends the token on the key: once, or again on the same key. False = there is no such token any more. */
export async function spendJoinToken(
  tx: Db,
  token: { id: string; secretHash: string; keyHash: string },
): Promise<boolean> {
  const rows = await tx
    .update(joinTokens)
    .set({ keyHash: token.keyHash, usedAt: sql`coalesce(${joinTokens.usedAt}, now())` })
    .where(
      and(
        eq(joinTokens.id, token.id),
        eq(joinTokens.secretHash, token.secretHash),
        gt(joinTokens.expiresAt, sql`now()`),
        or(isNull(joinTokens.keyHash), eq(joinTokens.keyHash, token.keyHash)),
      ),
    )
    .returning({ id: joinTokens.id });
  return rows.length > 0;
}

export async function pruneJoinTokens(tx: Db): Promise<void> {
  await tx.delete(joinTokens).where(lt(joinTokens.expiresAt, sql`now() - interval '1 day'`));
}
