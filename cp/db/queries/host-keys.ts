import { and, eq, gt, isNull, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { hostKeys, type HostKeyRow } from "../schema/host-keys.ts";

/** Null when the host has no key that may speak for it. */
export async function activeKey(tx: Db, hostId: string): Promise<HostKeyRow | null> {
  const [row] = await tx
    .select()
    .from(hostKeys)
    .where(and(eq(hostKeys.hostId, hostId), isNull(hostKeys.revokedAt)));
  return row ?? null;
}

/** False when the key is revoked, belongs to another host, or the host has another key. */
export async function enrolKey(
  tx: Db,
  key: { keyHash: string; hostId: string; notAfter: Date },
): Promise<boolean> {
  const rows = await tx
    .insert(hostKeys)
    .values(key)
    .onConflictDoUpdate({
      target: hostKeys.keyHash,
      set: { notAfter: key.notAfter },
      setWhere: sql`${hostKeys.hostId} = ${key.hostId} and ${hostKeys.revokedAt} is null`,
    })
    .returning({ keyHash: hostKeys.keyHash });
  return rows.length > 0;
}

/** The keys of a host that spoke for it until now. */
export async function revokeKeys(tx: Db, hostId: string): Promise<string[]> {
  const rows = await tx
    .update(hostKeys)
    .set({ revokedAt: sql`now()` })
    .where(and(eq(hostKeys.hostId, hostId), isNull(hostKeys.revokedAt)))
    .returning({ keyHash: hostKeys.keyHash });
  return rows.map((row) => row.keyHash);
}

/** Keys that were revoked within the hour; a stream of an older one was refused or closed. */
export async function recentlyRevoked(tx: Db): Promise<string[]> {
  const rows = await tx
    .select({ keyHash: hostKeys.keyHash })
    .from(hostKeys)
    .where(gt(hostKeys.revokedAt, sql`now() - interval '1 hour'`));
  return rows.map((row) => row.keyHash);
}
