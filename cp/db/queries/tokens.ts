import { and, desc, eq, isNull, lt, or, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { tokens, type TokenRow } from "../schema/tokens.ts";

export type NewToken = Pick<TokenRow, "id" | "projectId" | "name" | "scope" | "hash"> & {
  /** By the database's clock. */
  expiresInS: number | null;
};

export async function insertToken(tx: Db, token: NewToken): Promise<TokenRow> {
  const { expiresInS, ...fields } = token;
  const [row] = await tx
    .insert(tokens)
    .values({
      ...fields,
      ...(expiresInS === null
        ? {}
        : { expiresAt: sql`now() + make_interval(secs => ${expiresInS})` }),
    })
    .returning();
  if (row === undefined) throw new Error("insert returned no row");
  return row;
}

/** Not revoked and not expired, by the database's clock. Notes that it is used. */
export async function findLiveToken(tx: Db, hash: string): Promise<TokenRow | undefined> {
  const [row] = await tx
    .select()
    .from(tokens)
    .where(
      and(
        eq(tokens.hash, hash),
        isNull(tokens.revokedAt),
        or(isNull(tokens.expiresAt), sql`${tokens.expiresAt} > now()`),
      ),
    );
  if (row === undefined) return undefined;
  const minuteAgo = sql`now() - interval '1 minute'`;
  await tx
    .update(tokens)
    .set({ lastUsedAt: sql`now()` })
    .where(
      and(eq(tokens.id, row.id), or(isNull(tokens.lastUsedAt), lt(tokens.lastUsedAt, minuteAgo))),
    );
  return row;
}

/** Newest first; null = the tokens of every project and of the fleet. */
export function listTokens(tx: Db, projectId: string | null): Promise<TokenRow[]> {
  return tx
    .select()
    .from(tokens)
    .where(projectId === null ? undefined : eq(tokens.projectId, projectId))
    .orderBy(desc(tokens.createdAt), desc(tokens.id));
}

export async function getToken(tx: Db, id: string): Promise<TokenRow | undefined> {
  const [row] = await tx.select().from(tokens).where(eq(tokens.id, id));
  return row;
}

/** Idempotent: the first time counts. */
export async function revokeToken(tx: Db, id: string): Promise<TokenRow | undefined> {
  const [row] = await tx
    .update(tokens)
    .set({ revokedAt: sql`coalesce(${tokens.revokedAt}, now())` })
    .where(eq(tokens.id, id))
    .returning();
  return row;
}

export async function revokeTokensOfProject(tx: Db, projectId: string): Promise<void> {
  await tx
    .update(tokens)
    .set({ revokedAt: sql`now()` })
    .where(and(eq(tokens.projectId, projectId), isNull(tokens.revokedAt)));
}

/** Keeps other first starts out until the transaction ends; true when no token was ever made. */
export async function lockIfNoTokens(tx: Db): Promise<boolean> {
  await tx.execute(sql`lock table ${tokens} in share row exclusive mode`);
  const rows = await tx.select({ id: tokens.id }).from(tokens).limit(1);
  return rows.length === 0;
}
