/** Finding room for a machine inside the transaction that needs it. */
import { choose, type HostView } from "../core/placement.ts";
import type { Db } from "../db/index.ts";
import { listHosts } from "../db/queries/hosts.ts";
import { insertPlacement, reserve, type Need } from "../db/queries/placements.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import type { MachineConfig } from "../../proto/rest.ts";

export type Placed = { hostId: string } | { refusal: string };

export function needOf(config: MachineConfig): Need {
  const { cpus, memory_mb, disk_mb } = config.guest;
  return { cpus, memoryMib: memory_mb, diskMib: disk_mb };
}

/** Reserves on the best host that still has room and writes the placement. */
export async function place(tx: Db, machineId: string, need: Need): Promise<Placed> {
  const choice = choose((await listHosts(tx)).map(viewOf), need);
  for (const hostId of choice.candidates) {
    if (!(await reserve(tx, hostId, need))) continue;
    await insertPlacement(tx, { machineId, hostId, ...need, running: true });
    return { hostId };
  }
  return { refusal: choice.refusal };
}

export function viewOf(row: HostRow): HostView {
  return {
    id: row.id,
    state: row.state,
    capacity: {
      cpus: row.capacityCpus,
      memoryMib: row.capacityMemoryMib,
      diskMib: row.capacityDiskMib,
    },
    committed: {
      cpus: row.committedCpus,
      memoryMib: row.committedMemoryMib,
      diskMib: row.committedDiskMib,
    },
  };
}
