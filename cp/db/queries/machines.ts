import {
  and,
  asc,
  count,
  desc,
  eq,
  gte,
  inArray,
  isNotNull,
  lte,
  ne,
  not,
  notExists,
  type SQL,
  sql,
} from "drizzle-orm";
import type { MachineState } from "../../../proto/states.ts";
import type { Db } from "../index.ts";
import { hosts } from "../schema/hosts.ts";
import { machines, type MachineRow } from "../schema/machines.ts";
import { ops } from "../schema/ops.ts";
import { connected } from "./hosts.ts";
import { oneOf } from "./lists.ts";

export type NewMachine = typeof machines.$inferInsert;
export type MachineChange = Partial<
  Omit<MachineRow, "id" | "createdAt" | "updatedAt" | "restartAt"> & {
    restartAt: Date | SQL<Date> | null;
  }
>;

/** States that a dropped link turns into "unknown". */
const LIVE: MachineState[] = ["starting", "started", "stopping"];

export async function insertMachine(tx: Db, machine: NewMachine): Promise<MachineRow> {
  const [row] = await tx.insert(machines).values(machine).returning();
  if (row === undefined) throw new Error("insert returned no row");
  return row;
}

/** Locks the row until the transaction ends. */
export async function lockMachine(tx: Db, id: string): Promise<MachineRow | undefined> {
  const [row] = await tx.select().from(machines).where(eq(machines.id, id)).for("update");
  return row;
}

/** Locks the rows until the transaction ends, in one order for all. */
export function lockMachines(tx: Db, ids: string[]): Promise<MachineRow[]> {
  return tx
    .select()
    .from(machines)
    .where(oneOf(machines.id, ids))
    .orderBy(asc(machines.id))
    .for("update");
}

export async function getMachine(tx: Db, id: string): Promise<MachineRow | undefined> {
  const [row] = await tx.select().from(machines).where(eq(machines.id, id));
  return row;
}

/** A time of the database's clock. */
export function afterNow(ms: number): SQL<Date> {
  return sql<Date>`now() + make_interval(secs => ${ms / 1000})`;
}

/** At rest, with a run that is due. */
export function findRestartsDue(tx: Db, limit: number): Promise<{ id: string }[]> {
  return tx
    .select({ id: machines.id })
    .from(machines)
    .innerJoin(hosts, eq(hosts.id, machines.hostId))
    .where(
      and(
        lte(machines.restartAt, sql`now()`),
        inArray(machines.observedState, ["stopped", "failed"]),
        eq(hosts.state, "ready"),
      ),
    )
    .orderBy(asc(machines.restartAt))
    .limit(limit);
}

export async function updateMachine(
  tx: Db,
  id: string,
  change: MachineChange,
): Promise<MachineRow> {
  const [row] = await tx
    .update(machines)
    .set({ ...change, updatedAt: sql`now()` })
    .where(eq(machines.id, id))
    .returning();
  if (row === undefined) throw new Error(`machine ${id} has no row`);
  return row;
}

/** The machine that has the name now, else the newest of those being destroyed. */
export async function findByName(
  tx: Db,
  projectId: string,
  name: string,
): Promise<MachineRow | undefined> {
  const rows = await tx
    .select()
    .from(machines)
    .where(
      and(
        eq(machines.projectId, projectId),
        eq(machines.name, name),
        ne(machines.observedState, "destroyed"),
      ),
    )
    .orderBy(sql`${machines.desiredState} = 'destroyed'`, desc(machines.createdAt))
    .limit(1);
  return rows[0];
}

/** At most two: one is found, two are ambiguous. Destroyed ones are left out. */
export function findByPrefix(tx: Db, projectId: string, prefix: string): Promise<MachineRow[]> {
  return tx
    .select()
    .from(machines)
    .where(
      and(
        eq(machines.projectId, projectId),
        sql`${machines.id} ^@ ${prefix}`,
        ne(machines.observedState, "destroyed"),
      ),
    )
    .limit(2);
}

/** Newest first. Without `states`, all that are not destroyed. */
export function listMachines(
  tx: Db,
  filter: {
    projectId: string;
    states?: MachineState[];
    name?: string;
    /** Id of the last machine of the page before. */
    cursor?: string;
    limit: number;
  },
): Promise<MachineRow[]> {
  return tx
    .select()
    .from(machines)
    .where(
      and(
        eq(machines.projectId, filter.projectId),
        filter.states === undefined
          ? ne(machines.observedState, "destroyed")
          : inArray(machines.observedState, filter.states),
        // Inside the database: its timestamps are finer than ours.
        filter.cursor === undefined
          ? undefined
          : sql`(${machines.createdAt}, ${machines.id}) < (select m.created_at, m.id from machines m where m.id = ${filter.cursor})`,
        filter.name === undefined ? undefined : eq(machines.name, filter.name),
      ),
    )
    .orderBy(desc(machines.createdAt), desc(machines.id))
    .limit(filter.limit);
}

/** Oldest first. */
export function findPending(tx: Db, limit: number): Promise<{ id: string }[]> {
  return tx
    .select({ id: machines.id })
    .from(machines)
    .where(eq(machines.observedState, "pending"))
    .orderBy(asc(machines.createdAt))
    .limit(limit);
}

/** Wanted started, and on their way or there. */
export function runningOn(tx: Db, hostId: string, limit: number): Promise<{ id: string }[]> {
  return tx
    .select({ id: machines.id })
    .from(machines)
    .where(
      and(
        eq(machines.hostId, hostId),
        eq(machines.desiredState, "started"),
        inArray(machines.observedState, ["starting", "started"]),
      ),
    )
    .limit(limit);
}

/** Hosts of the group's other machines. */
export async function hostsOfGroup(
  tx: Db,
  projectId: string,
  group: string,
  except: string,
): Promise<string[]> {
  const rows = await tx
    .selectDistinct({ hostId: machines.hostId })
    .from(machines)
    .where(
      and(
        eq(machines.projectId, projectId),
        eq(machines.antiAffinity, group),
        ne(machines.id, except),
        ne(machines.observedState, "destroyed"),
      ),
    );
  return rows.flatMap(({ hostId }) => (hostId === null ? [] : [hostId]));
}

/** A few hosts, from `from` on, that a machine of this image has run on. */
export async function hostsWithImage(
  tx: Db,
  image: string,
  from: string,
  limit: number,
): Promise<string[]> {
  const had = and(eq(machines.image, image), isNotNull(machines.imageDigest));
  const rows = await tx
    .selectDistinct({ hostId: machines.hostId })
    .from(machines)
    .where(and(had, gte(machines.hostId, from)))
    .orderBy(asc(machines.hostId))
    .limit(limit);
  return rows.flatMap(({ hostId }) => (hostId === null ? [] : [hostId]));
}

/** Machines of the host that are not destroyed. */
export function machinesOfHost(tx: Db, hostId: string): Promise<MachineRow[]> {
  return tx
    .select()
    .from(machines)
    .where(and(eq(machines.hostId, hostId), ne(machines.observedState, "destroyed")))
    .orderBy(asc(machines.id));
}

export async function countByState(tx: Db): Promise<Map<MachineState, number>> {
  const rows = await tx
    .select({ state: machines.observedState, machines: count() })
    .from(machines)
    .groupBy(machines.observedState);
  return new Map(rows.map((row) => [row.state, row.machines]));
}

export async function countByHost(tx: Db): Promise<Map<string, number>> {
  const rows = await tx
    .select({ hostId: machines.hostId, machines: count() })
    .from(machines)
    .where(ne(machines.observedState, "destroyed"))
    .groupBy(machines.hostId);
  return new Map(rows.flatMap((row) => (row.hostId === null ? [] : [[row.hostId, row.machines]])));
}

/**
 * The host's stream is down: what was live is "unknown". Nothing happens when a
 * newer stream has made the host ready again. Returns the machines that changed.
 */
export function markUnknown(tx: Db, hostId: string): Promise<MachineRow[]> {
  const down = tx
    .select({ id: hosts.id })
    .from(hosts)
    .where(and(eq(hosts.id, hostId), not(connected)));
  return tx
    .update(machines)
    .set({
      observedState: "unknown",
      statusReason: "HOST_UNAVAILABLE",
      statusMessage: "Its host is not connected; the machine itself may be running",
      updatedAt: sql`now()`,
    })
    .where(and(inArray(machines.hostId, down), inArray(machines.observedState, LIVE)))
    .returning();
}

/**
 * Machines that are not as desired and have no op under way, of one host or of all
 * that a replica holds. Coarse: core's `remedy` decides.
 */
export function findDiverged(
  tx: Db,
  of: { hostId: string } | { replicaId: string },
  limit: number,
): Promise<MachineRow[]> {
  const which =
    "hostId" in of
      ? eq(machines.hostId, of.hostId)
      : inArray(
          machines.hostId,
          tx.select({ id: hosts.id }).from(hosts).where(eq(hosts.ownerReplica, of.replicaId)),
        );
  const busy = tx
    .select({ id: ops.id })
    .from(ops)
    .where(
      and(
        eq(ops.machineId, machines.id),
        eq(ops.hostId, machines.hostId),
        inArray(ops.state, ["pending", "sent", "acked"]),
      ),
    );
  return tx
    .select()
    .from(machines)
    .where(
      and(
        which,
        ne(machines.observedState, "destroyed"),
        ne(machines.observedState, machines.desiredState),
        notExists(busy),
      ),
    )
    .orderBy(asc(machines.updatedAt))
    .limit(limit);
}
