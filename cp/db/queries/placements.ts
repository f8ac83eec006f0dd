/**
 * Capacity. Order of locks everywhere: the machine's row, then its host's row,
 * then the placement; so no two transactions wait for each other.
 */
import { and, eq, gte, isNull, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { hosts } from "../schema/hosts.ts";
import { placements, type PlacementRow } from "../schema/placements.ts";
import { oneOf } from "./lists.ts";

export type Need = { cpus: number; memoryMib: number; diskMib: number };

/**
 * Takes room on a ready host if it has it: the guard and the taking are one
 * statement, so that two requests never share the last of it.
 */
export async function reserve(tx: Db, hostId: string, need: Need): Promise<boolean> {
  const rows = await tx
    .update(hosts)
    .set({
      committedCpus: sql`${hosts.committedCpus} + ${need.cpus}`,
      committedMemoryMib: sql`${hosts.committedMemoryMib} + ${need.memoryMib}`,
      committedDiskMib: sql`${hosts.committedDiskMib} + ${need.diskMib}`,
    })
    .where(
      and(
        eq(hosts.id, hostId),
        eq(hosts.state, "ready"),
        eq(hosts.cordoned, false),
        isNull(hosts.quarantinedUntil),
        gte(sql`${hosts.capacityCpus} - ${hosts.committedCpus}`, need.cpus),
        gte(sql`${hosts.capacityMemoryMib} - ${hosts.committedMemoryMib}`, need.memoryMib),
        gte(sql`${hosts.capacityDiskMib} - ${hosts.committedDiskMib}`, need.diskMib),
      ),
    )
    .returning({ id: hosts.id });
  return rows.length > 0;
}

export async function insertPlacement(tx: Db, placement: PlacementRow): Promise<void> {
  await tx.insert(placements).values(placement);
}

export async function getPlacement(tx: Db, machineId: string): Promise<PlacementRow | undefined> {
  const [row] = await tx.select().from(placements).where(eq(placements.machineId, machineId));
  return row;
}

export function getPlacements(tx: Db, machineIds: string[]): Promise<PlacementRow[]> {
  return tx.select().from(placements).where(oneOf(placements.machineId, machineIds));
}

/** Adds (or, negative, gives back) without a guard: for what a host says already runs. */
async function commit(tx: Db, hostId: string, change: Need): Promise<void> {
  await tx
    .update(hosts)
    .set({
      committedCpus: sql`${hosts.committedCpus} + ${change.cpus}`,
      committedMemoryMib: sql`${hosts.committedMemoryMib} + ${change.memoryMib}`,
      committedDiskMib: sql`${hosts.committedDiskMib} + ${change.diskMib}`,
    })
    .where(eq(hosts.id, hostId));
}

/** Takes or gives back a placement's CPU and memory; idempotent. The machine's row is locked. */
export async function setRunning(
  tx: Db,
  row: PlacementRow | undefined,
  running: boolean,
): Promise<void> {
  if (row === undefined || row.running === running) return;
  const { machineId } = row;
  const sign = running ? 1 : -1;
  await commit(tx, row.hostId, {
    cpus: sign * row.cpus,
    memoryMib: sign * row.memoryMib,
    diskMib: 0,
  });
  await tx.update(placements).set({ running }).where(eq(placements.machineId, machineId));
}

/** Takes CPU and memory again for a machine at rest; false when its host has no room. */
export async function reserveAgain(tx: Db, machineId: string): Promise<boolean> {
  const row = await getPlacement(tx, machineId);
  if (row === undefined) return false;
  if (row.running) return true;
  const taken = await reserve(tx, row.hostId, {
    cpus: row.cpus,
    memoryMib: row.memoryMib,
    diskMib: 0,
  });
  if (!taken) return false;
  await tx.update(placements).set({ running: true }).where(eq(placements.machineId, machineId));
  return true;
}

/** For a machine at rest: what its next run takes. */
export async function resizePlacement(
  tx: Db,
  machineId: string,
  need: Pick<Need, "cpus" | "memoryMib">,
): Promise<void> {
  const { cpus, memoryMib } = need;
  await tx
    .update(placements)
    .set({ cpus, memoryMib })
    .where(and(eq(placements.machineId, machineId), eq(placements.running, false)));
}

/** Gives everything back. Idempotent. The machine's row is locked. */
export async function removePlacement(tx: Db, machineId: string): Promise<void> {
  const row = await getPlacement(tx, machineId);
  if (row === undefined) return;
  await commit(tx, row.hostId, {
    cpus: row.running ? -row.cpus : 0,
    memoryMib: row.running ? -row.memoryMib : 0,
    diskMib: -row.diskMib,
  });
  await tx.delete(placements).where(eq(placements.machineId, machineId));
}
