/** Leases of replicas, by the database's clock; no session of PostgreSQL holds anything. */
import { and, asc, eq, gt, lt, notExists, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { cluster } from "../schema/cluster.ts";
import { hosts } from "../schema/hosts.ts";
import { leaders } from "../schema/leaders.ts";
import { connected } from "./hosts.ts";
import { replicas } from "../schema/replicas.ts";

const until = (seconds: number) => sql`now() + make_interval(secs => ${seconds})`;

/** False when the lease had run out: others may have taken over meanwhile. */
export async function renewReplica(tx: Db, id: string, seconds: number): Promise<boolean> {
  const rows = await tx
    .update(replicas)
    .set({ leaseUntil: until(seconds) })
    .where(and(eq(replicas.id, id), gt(replicas.leaseUntil, sql`now()`)))
    .returning({ id: replicas.id });
  return rows.length > 0;
}

/** Begins a lease, or begins it again. Forgets replicas that ended long ago. */
export async function enterReplica(
  tx: Db,
  replica: { id: string; url: string },
  seconds: number,
): Promise<void> {
  const leaseUntil = until(seconds);
  await tx
    .insert(replicas)
    .values({ ...replica, leaseUntil })
    .onConflictDoUpdate({ target: replicas.id, set: { leaseUntil } });
  await tx.delete(replicas).where(lt(replicas.leaseUntil, sql`now() - interval '1 day'`));
}

export async function leaveReplica(tx: Db, id: string): Promise<void> {
  await tx.delete(replicas).where(eq(replicas.id, id));
  await tx.delete(leaders).where(eq(leaders.replicaId, id));
}

/** Only for a database that nobody else can have open. */
export async function forgetReplicas(tx: Db): Promise<void> {
  await tx.delete(replicas);
  await tx.delete(leaders);
}

/** Hosts that are said to be connected and whose owner has no lease. */
export function findOrphans(tx: Db, limit: number): Promise<{ id: string; epoch: number }[]> {
  const owner = tx
    .select({ id: replicas.id })
    .from(replicas)
    .where(and(eq(replicas.id, hosts.ownerReplica), gt(replicas.leaseUntil, sql`now()`)));
  return tx
    .select({ id: hosts.id, epoch: hosts.epoch })
    .from(hosts)
    .where(and(connected, notExists(owner)))
    .orderBy(asc(hosts.id))
    .limit(limit);
}

/** The hosts that this replica holds by their rows. */
export function ownedHosts(tx: Db, replicaId: string): Promise<{ id: string; epoch: number }[]> {
  return tx
    .select({ id: hosts.id, epoch: hosts.epoch })
    .from(hosts)
    .where(and(connected, eq(hosts.ownerReplica, replicaId)));
}

/** Where the replica that holds the host's stream listens; null when none does. */
export async function findOwner(
  tx: Db,
  hostId: string,
): Promise<{ id: string; url: string } | null> {
  const [row] = await tx
    .select({ id: replicas.id, url: replicas.url })
    .from(hosts)
    .innerJoin(replicas, eq(replicas.id, hosts.ownerReplica))
    .where(and(eq(hosts.id, hostId), connected, gt(replicas.leaseUntil, sql`now()`)));
  return row ?? null;
}

/** The term under which this replica leads the work; null while another one does. */
export async function takeLead(
  tx: Db,
  work: string,
  replicaId: string,
  seconds: number,
): Promise<number | null> {
  const leaseUntil = until(seconds);
  const [row] = await tx
    .insert(leaders)
    .values({ work, replicaId, term: 1, leaseUntil })
    .onConflictDoUpdate({
      target: leaders.work,
      set: {
        replicaId,
        leaseUntil,
        term: sql`case when ${leaders.replicaId} = ${replicaId} then ${leaders.term} else ${leaders.term} + 1 end`,
      },
      setWhere: sql`${leaders.replicaId} = ${replicaId} or ${leaders.leaseUntil} < now()`,
    })
    .returning({ term: leaders.term });
  return row?.term ?? null;
}

/** Made by whoever comes first; the same for all. */
export async function clusterSecret(tx: Db, fresh: string): Promise<string> {
  await tx.insert(cluster).values({ id: 1, secret: fresh }).onConflictDoNothing();
  const [row] = await tx.select().from(cluster).where(eq(cluster.id, 1));
  if (row === undefined) throw new Error("the cluster has no secret");
  return row.secret;
}
