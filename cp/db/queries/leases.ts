import { and, eq, sql } from "drizzle-orm";
import type { Lease } from "../../../proto/rest.ts";
import type { Db } from "../index.ts";
import { machines, type MachineRow } from "../schema/machines.ts";

const current = sql`${machines.leaseExpiresAt} > now()`;

function leaseOf(row: MachineRow): Lease | undefined {
  if (row.leaseOwner === null || row.leaseExpiresAt === null) return undefined;
  return {
    owner: row.leaseOwner,
    description: row.leaseDescription,
    expires_at: row.leaseExpiresAt.toISOString(),
  };
}

/** The lease that holds now, without its nonce. */
export async function getLease(tx: Db, machineId: string): Promise<Lease | undefined> {
  const [row] = await tx
    .select()
    .from(machines)
    .where(and(eq(machines.id, machineId), current));
  return row === undefined ? undefined : leaseOf(row);
}

export async function setLease(
  tx: Db,
  machineId: string,
  lease: { owner: string; ttlS: number; description: string | null; nonce: string },
): Promise<Lease> {
  const [row] = await tx
    .update(machines)
    .set({
      leaseNonce: lease.nonce,
      leaseOwner: lease.owner,
      leaseDescription: lease.description,
      leaseExpiresAt: sql`now() + make_interval(secs => ${lease.ttlS})`,
    })
    .where(eq(machines.id, machineId))
    .returning();
  const made = row === undefined ? undefined : leaseOf(row);
  if (made === undefined) throw new Error(`machine ${machineId} has no row`);
  return { ...made, nonce: lease.nonce };
}

export async function clearLease(tx: Db, machineId: string): Promise<void> {
  await tx
    .update(machines)
    .set({ leaseNonce: null, leaseOwner: null, leaseDescription: null, leaseExpiresAt: null })
    .where(eq(machines.id, machineId));
}
