import { and, asc, count, eq, exists, inArray, lt, ne, or, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { hosts } from "../schema/hosts.ts";
import { machines, type MachineRow } from "../schema/machines.ts";
import { ops, type OpCommand, type OpRow, type OpState } from "../schema/ops.ts";

const OPEN: OpState[] = ["pending", "sent", "acked"];

export type NewOp = {
  id: string;
  machineId: string;
  hostId: string;
  generation: number;
  command: OpCommand;
};

/** Writes the op and closes the machine's older ones on that host: the last word holds. */
export async function insertOp(tx: Db, op: NewOp): Promise<void> {
  // A machine's first op has none before it.
  if (op.generation > 1)
    await tx
      .update(ops)
      .set({ state: "superseded", finishedAt: sql`now()` })
      .where(
        and(eq(ops.machineId, op.machineId), eq(ops.hostId, op.hostId), inArray(ops.state, OPEN)),
      );
  await tx.insert(ops).values(op);
}

export type Outgoing = {
  op: OpRow;
  machine: MachineRow | null;
  /** The host's. */
  epoch: number;
};

/**
 * What hosts have to be sent: never sent, or sent under an earlier epoch and not
 * known to be journalled. Oldest first.
 */
export async function findOutgoing(tx: Db, hostIds: string[], limit: number): Promise<Outgoing[]> {
  return tx
    .select({ op: ops, machine: machines, epoch: hosts.epoch })
    .from(ops)
    .innerJoin(hosts, eq(hosts.id, ops.hostId))
    .leftJoin(machines, eq(machines.id, ops.machineId))
    .where(
      and(
        inArray(ops.hostId, rounded(hostIds)),
        or(eq(ops.state, "pending"), and(eq(ops.state, "sent"), ne(ops.sentEpoch, hosts.epoch))),
      ),
    )
    .orderBy(asc(ops.sequence))
    .limit(limit);
}

/** Filled up to a power of two: each length is another statement to keep. */
function rounded(ids: string[]): string[] {
  const length = 2 ** Math.ceil(Math.log2(Math.max(ids.length, 1)));
  return [...ids, ...Array.from({ length: length - ids.length }, () => ids[0] ?? "")];
}

/** Of hosts of this epoch. Where it has passed nothing happens: what was sent went nowhere. */
export async function markSent(
  tx: Db,
  opIds: string[],
  { epoch, withLogin }: Pick<OpRow, "withLogin"> & { epoch: number },
): Promise<void> {
  const newest = tx
    .select({ id: hosts.id })
    .from(hosts)
    .where(and(eq(hosts.id, ops.hostId), eq(hosts.epoch, epoch)));
  await tx
    .update(ops)
    .set({ state: "sent", sentEpoch: epoch, attempts: sql`${ops.attempts} + 1`, withLogin })
    .where(
      and(inArray(ops.id, rounded(opIds)), inArray(ops.state, ["pending", "sent"]), exists(newest)),
    );
}

export async function markAcked(tx: Db, opId: string, hostId: string): Promise<void> {
  await tx
    .update(ops)
    .set({ state: "acked" })
    .where(and(eq(ops.id, opId), eq(ops.hostId, hostId), inArray(ops.state, ["pending", "sent"])));
}

/** The open op of that id, or undefined when it is closed already (a repeated Result). */
export async function finishOp(
  tx: Db,
  opId: string,
  hostId: string,
  outcome: {
    state: "done" | "failed" | "superseded";
    reason: string | null;
    message: string | null;
  },
): Promise<OpRow | undefined> {
  const [row] = await tx
    .update(ops)
    .set({
      state: outcome.state,
      errorReason: outcome.reason,
      errorMessage: outcome.message,
      finishedAt: sql`now()`,
    })
    .where(and(eq(ops.id, opId), eq(ops.hostId, hostId), inArray(ops.state, OPEN)))
    .returning();
  return row;
}

export async function hasOpenOp(tx: Db, machineId: string, hostId: string): Promise<boolean> {
  const rows = await tx
    .select({ id: ops.id })
    .from(ops)
    .where(and(eq(ops.machineId, machineId), eq(ops.hostId, hostId), inArray(ops.state, OPEN)))
    .limit(1);
  return rows.length > 0;
}

/** Hosts of this replica for which something waits to be sent, or was sent by an earlier stream. */
export async function hostsWithPending(tx: Db, replicaId: string): Promise<string[]> {
  const rows = await tx
    .selectDistinct({ hostId: ops.hostId })
    .from(ops)
    .innerJoin(hosts, eq(hosts.id, ops.hostId))
    .where(
      and(
        eq(hosts.ownerReplica, replicaId),
        or(eq(ops.state, "pending"), and(eq(ops.state, "sent"), ne(ops.sentEpoch, hosts.epoch))),
      ),
    );
  return rows.map((row) => row.hostId);
}

/** Ops that the host had journalled but no longer knows are sent again. */
export async function reopenAcked(tx: Db, machineId: string): Promise<void> {
  await tx
    .update(ops)
    .set({ state: "pending" })
    .where(and(eq(ops.machineId, machineId), eq(ops.state, "acked")));
}

/** Closes what is open for a machine that is gone for good. */
export async function closeOps(tx: Db, machineId: string): Promise<void> {
  await tx
    .update(ops)
    .set({ state: "superseded", finishedAt: sql`now()` })
    .where(and(eq(ops.machineId, machineId), inArray(ops.state, OPEN)));
}

/** Ops that ended so long ago that no repeated Result can name them. */
export async function pruneOps(tx: Db, olderThanS: number): Promise<void> {
  await tx.delete(ops).where(lt(ops.finishedAt, sql`now() - make_interval(secs => ${olderThanS})`));
}

export async function countOpen(tx: Db): Promise<number> {
  const [row] = await tx.select({ open: count() }).from(ops).where(inArray(ops.state, OPEN));
  return row?.open ?? 0;
}
