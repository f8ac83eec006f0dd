import {
  and,
  asc,
  eq,
  gt,
  gte,
  inArray,
  isNotNull,
  isNull,
  lt,
  lte,
  or,
  sql,
  type SQL,
} from "drizzle-orm";
import type { Db } from "../index.ts";
import { hosts, type HostRow } from "../schema/hosts.ts";
import { placements } from "../schema/placements.ts";
import { onePairOf } from "./lists.ts";

export type Registration = Pick<
  HostRow,
  | "id"
  | "hostname"
  | "arch"
  | "kvm"
  | "version"
  | "labels"
  | "bootId"
  | "ownerReplica"
  | "capacityCpus"
  | "capacityMemoryMib"
  | "capacityDiskMib"
>;

/** A stream is open. */
export const connected = inArray(hosts.state, ["ready", "suspect", "conflict"]);

/**
 * One statement makes the host ready (or puts it into conflict) and begins its next
 * epoch, by the database's clock; what every older stream still writes then fails its
 * `AND epoch`. Returns the epoch. The caller's transaction holds the row's lock from
 * here on.
 */
export async function registerHost(
  tx: Db,
  host: Registration,
  state: "ready" | "conflict" = "ready",
): Promise<number> {
  const { id: _, ...fields } = host;
  const [row] = await tx
    .insert(hosts)
    .values({ ...host, state, epoch: 1, lastSeenAt: sql`now()` })
    .onConflictDoUpdate({
      target: hosts.id,
      set: { ...fields, state, epoch: sql`${hosts.epoch} + 1`, lastSeenAt: sql`now()` },
    })
    .returning({ epoch: hosts.epoch });
  if (row === undefined) throw new Error("register returned no row");
  return row.epoch;
}

/** Rebuilds the cache from the placements. The caller holds the row's lock already: a
 * subquery sees only what was committed before its own statement began. */
export async function recountCommitted(tx: Db, hostId: string): Promise<void> {
  const sum = (column: string): ReturnType<typeof sql> =>
    sql`coalesce((select sum(${sql.raw(column)}) from ${placements} where ${placements.hostId} = ${hostId}), 0)`;
  await tx
    .update(hosts)
    .set({
      committedCpus: sum("case when running then cpus else 0 end"),
      committedMemoryMib: sum("case when running then memory_mib else 0 end"),
      committedDiskMib: sum("disk_mib"),
    })
    .where(eq(hosts.id, hostId));
}

/** False when a newer stream owns the host: the mark-down then belongs to nobody. */
export async function markDisconnected(tx: Db, hostId: string, epoch: number): Promise<boolean> {
  const rows = await tx
    .update(hosts)
    .set({ state: "disconnected", ownerReplica: null })
    .where(and(eq(hosts.id, hostId), eq(hosts.epoch, epoch), connected))
    .returning({ id: hosts.id });
  return rows.length > 0;
}

/**
 * Takes the host from a replica whose lease ran out: disconnected under an epoch of its
 * own, so that the former owner's writes touch nothing. False when it has moved on.
 */
export async function fenceHost(tx: Db, hostId: string, epoch: number): Promise<boolean> {
  const rows = await tx
    .update(hosts)
    .set({ state: "disconnected", ownerReplica: null, epoch: epoch + 1 })
    .where(and(eq(hosts.id, hostId), eq(hosts.epoch, epoch), connected))
    .returning({ id: hosts.id });
  return rows.length > 0;
}

/** At the start of the only control plane no stream is open, whatever the rows say. */
export async function markAllDisconnected(tx: Db): Promise<string[]> {
  const rows = await tx
    .update(hosts)
    .set({ state: "disconnected", ownerReplica: null })
    .where(connected)
    .returning({ id: hosts.id });
  return rows.map((row) => row.id);
}

/** Hosts this process holds by their rows, that have not been heard of for so long. */
export function findAbandoned(
  tx: Db,
  replicaId: string,
  seconds: number,
): Promise<{ id: string; epoch: number }[]> {
  return tx
    .select({ id: hosts.id, epoch: hosts.epoch })
    .from(hosts)
    .where(
      and(
        connected,
        eq(hosts.ownerReplica, replicaId),
        lt(hosts.lastSeenAt, sql`now() - make_interval(secs => ${seconds})`),
      ),
    );
}

export async function touchHost(tx: Db, hostId: string, epoch: number): Promise<boolean> {
  const rows = await tx
    .update(hosts)
    .set({
      lastSeenAt: sql`now()`,
      state: sql`case when ${hosts.state} = 'suspect' then 'ready' else ${hosts.state} end`,
    })
    .where(and(eq(hosts.id, hostId), eq(hosts.epoch, epoch)))
    .returning({ id: hosts.id });
  return rows.length > 0;
}

/** Of the hosts that this replica holds; returns under which epoch each is held. */
export function touchHosts(
  tx: Db,
  replicaId: string,
  hostIds: string[],
): Promise<{ id: string; epoch: number }[]> {
  return tx
    .update(hosts)
    .set({
      lastSeenAt: sql`now()`,
      state: sql`case when ${hosts.state} = 'suspect' then 'ready' else ${hosts.state} end`,
    })
    .where(and(inArray(hosts.id, hostIds), eq(hosts.ownerReplica, replicaId)))
    .returning({ id: hosts.id, epoch: hosts.epoch });
}

/** True while this epoch is the host's newest. A newer one may come right after: reports are ordered by the machine's row. */
export async function ownsEpoch(tx: Db, hostId: string, epoch: number): Promise<boolean> {
  const rows = await tx
    .select({ id: hosts.id })
    .from(hosts)
    .where(and(eq(hosts.id, hostId), eq(hosts.epoch, epoch)));
  return rows.length > 0;
}

/** Like ownsEpoch: those hosts whose epoch is the newest. */
export async function ownedOf(
  tx: Db,
  origins: { hostId: string; epoch: number }[],
): Promise<Set<string>> {
  const pairs = origins.map(({ hostId, epoch }) => [hostId, epoch] as const);
  const rows = await tx
    .select({ id: hosts.id })
    .from(hosts)
    .where(onePairOf([hosts.id, hosts.epoch], pairs));
  return new Set(rows.map((row) => row.id));
}

export function listHosts(tx: Db): Promise<HostRow[]> {
  return tx.select().from(hosts).orderBy(asc(hosts.createdAt), asc(hosts.id));
}

/** What placement looks at. */
const look = {
  id: hosts.id,
  state: hosts.state,
  cordoned: hosts.cordoned,
  quarantinedUntil: hosts.quarantinedUntil,
  arch: hosts.arch,
  kvm: hosts.kvm,
  labels: hosts.labels,
  capacityCpus: hosts.capacityCpus,
  capacityMemoryMib: hosts.capacityMemoryMib,
  capacityDiskMib: hosts.capacityDiskMib,
  committedCpus: hosts.committedCpus,
  committedMemoryMib: hosts.committedMemoryMib,
  committedDiskMib: hosts.committedDiskMib,
};
export type HostLook = Pick<HostRow, keyof typeof look>;

/**
 * Ready hosts whose ids follow `from`, round the end: ids are random, so a random
 * `from` draws at random, at the cost of a look into the index however many there are.
 */
export async function sampleHosts(tx: Db, from: string, limit: number): Promise<HostLook[]> {
  const ready = and(
    eq(hosts.state, "ready"),
    eq(hosts.cordoned, false),
    isNull(hosts.quarantinedUntil),
  );
  const draw = (side: SQL, count: number): Promise<HostLook[]> =>
    tx.select(look).from(hosts).where(and(side, ready)).orderBy(asc(hosts.id)).limit(count);
  const after = await draw(gte(hosts.id, from), limit);
  if (after.length === limit) return after;
  return [...after, ...(await draw(lt(hosts.id, from), limit - after.length))];
}

/** Oldest first; `cursor` is the id of the last host of the page before. */
export function pageOfHosts(
  tx: Db,
  page: { cursor: string | undefined; limit: number },
): Promise<HostRow[]> {
  return tx
    .select()
    .from(hosts)
    .where(
      page.cursor === undefined
        ? undefined
        : sql`(${hosts.createdAt}, ${hosts.id}) > (select h.created_at, h.id from hosts h where h.id = ${page.cursor})`,
    )
    .orderBy(asc(hosts.createdAt), asc(hosts.id))
    .limit(page.limit);
}

export function hostsByIds(tx: Db, ids: string[]): Promise<HostLook[]> {
  return tx.select(look).from(hosts).where(inArray(hosts.id, ids));
}

export type Drain = { mode: "move" | "stop"; deadlineS: number };

export async function setCordon(
  tx: Db,
  id: string,
  cordoned: boolean,
  drain: Drain | null,
): Promise<HostRow | undefined> {
  const [row] = await tx
    .update(hosts)
    .set({
      cordoned,
      drainMode: drain?.mode ?? null,
      drainDeadline: drain === null ? null : sql`now() + make_interval(secs => ${drain.deadlineS})`,
    })
    .where(eq(hosts.id, id))
    .returning();
  return row;
}

export function drainingHosts(tx: Db): Promise<HostRow[]> {
  return tx
    .select()
    .from(hosts)
    .where(and(isNotNull(hosts.drainMode), eq(hosts.state, "ready")));
}

/** Returns the hosts that are lost from now on. */
export async function sweepLiveness(
  tx: Db,
  suspectAfterS: number,
  lostAfterS: number,
): Promise<string[]> {
  await tx
    .update(hosts)
    .set({ state: "suspect" })
    .where(
      and(
        eq(hosts.state, "ready"),
        lt(hosts.lastSeenAt, sql`now() - make_interval(secs => ${suspectAfterS})`),
      ),
    );
  await tx
    .update(hosts)
    .set({ quarantinedUntil: null, startFailures: 0 })
    .where(lte(hosts.quarantinedUntil, sql`now()`));
  const lost = await tx
    .update(hosts)
    .set({ state: "lost" })
    .where(
      and(
        eq(hosts.state, "disconnected"),
        lt(hosts.lastSeenAt, sql`now() - make_interval(secs => ${lostAfterS})`),
      ),
    )
    .returning({ id: hosts.id });
  return lost.map(({ id }) => id);
}

/** The third failure in a row puts the host aside. */
const FAILURES_ALLOWED = 3;
const QUARANTINE_S = 300;

export async function noteStartFailure(tx: Db, id: string): Promise<void> {
  await tx
    .update(hosts)
    .set({ startFailures: sql`${hosts.startFailures} + 1` })
    .where(eq(hosts.id, id));
  await tx
    .update(hosts)
    .set({ quarantinedUntil: sql`now() + make_interval(secs => ${QUARANTINE_S})` })
    .where(and(eq(hosts.id, id), gte(hosts.startFailures, FAILURES_ALLOWED)));
}

export async function noteStartSuccess(tx: Db, id: string): Promise<void> {
  await tx
    .update(hosts)
    .set({ startFailures: 0 })
    .where(and(eq(hosts.id, id), gt(hosts.startFailures, 0)));
}

export function findHosts(tx: Db, idOrName: string): Promise<HostRow[]> {
  return tx
    .select()
    .from(hosts)
    .where(or(eq(hosts.id, idOrName), eq(hosts.hostname, idOrName)))
    .limit(2);
}

export async function getHost(tx: Db, id: string): Promise<HostRow | undefined> {
  const [row] = await tx.select().from(hosts).where(eq(hosts.id, id));
  return row;
}
