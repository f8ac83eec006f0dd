import { and, asc, count, eq, exists, inArray, lt, ne, or, type SQL, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { hosts } from "../schema/hosts.ts";
import { machines, type MachineRow } from "../schema/machines.ts";
import { ops, type OpCommand, type OpRow, type OpState } from "../schema/ops.ts";
import { oneOf, onePairOf } from "./lists.ts";

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

/** Of an op and its machine, what its sending takes; `epoch` is the host's. */
export type Outgoing = {
  op: Pick<OpRow, "id" | "machineId" | "hostId" | "generation" | "command">;
  machine: Pick<MachineRow, "name" | "config" | "projectId"> | null;
  epoch: number;
};

/** In the index's own words: a statement that is kept is planned without its parameters. */
const INDEXED = sql`${ops.state} in ('pending', 'sent', 'acked')`;

const toBeSent = or(
  eq(ops.state, "pending"),
  and(eq(ops.state, "sent"), ne(ops.sentEpoch, hosts.epoch)),
);

/**
 * What hosts have to be sent: never sent, or sent under an earlier epoch and not
 * known to be journalled. Oldest first.
 */
export async function findOutgoing(tx: Db, hostIds: string[], limit: number): Promise<Outgoing[]> {
  const { id, machineId, hostId, generation, command } = ops;
  const { name, config, projectId } = machines;
  return tx
    .select({
      op: { id, machineId, hostId, generation, command },
      machine: { name, config, projectId },
      epoch: hosts.epoch,
    })
    .from(ops)
    .innerJoin(hosts, eq(hosts.id, ops.hostId))
    .leftJoin(machines, eq(machines.id, ops.machineId))
    .where(and(oneOf(ops.hostId, hostIds), INDEXED, toBeSent))
    .orderBy(asc(ops.sequence))
    .limit(limit);
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
    .where(and(oneOf(ops.id, opIds), inArray(ops.state, ["pending", "sent"]), exists(newest)));
}

export type OpOfHost = { opId: string; hostId: string };

/** What hosts say they have journalled. */
export async function markAcked(tx: Db, acks: OpOfHost[]): Promise<void> {
  await tx
    .update(ops)
    .set({ state: "acked" })
    .where(and(pairsOf(acks), inArray(ops.state, ["pending", "sent"])));
}

function pairsOf(list: OpOfHost[]): SQL {
  return onePairOf(
    [ops.id, ops.hostId],
    list.map(({ opId, hostId }) => [opId, hostId] as const),
  );
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

/** Of ops, what their end is judged by. */
export type EndedOp = Pick<OpRow, "id" | "machineId" | "hostId" | "generation" | "command">;

/** Like finishOp, of ops that are done; those that are closed already are left out. */
export function finishDone(tx: Db, list: OpOfHost[]): Promise<EndedOp[]> {
  const { id, machineId, hostId, generation, command } = ops;
  return tx
    .update(ops)
    .set({ state: "done", errorReason: null, errorMessage: null, finishedAt: sql`now()` })
    .where(and(pairsOf(list), inArray(ops.state, OPEN)))
    .returning({ id, machineId, hostId, generation, command });
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
    .where(and(eq(hosts.ownerReplica, replicaId), INDEXED, toBeSent));
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
