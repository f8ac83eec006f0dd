/** Finding room for a machine inside the transaction that needs it. */
import { choose, type HostView } from "../core/placement.ts";
import type { Db } from "../db/index.ts";
import { listHosts, sampleHosts } from "../db/queries/hosts.ts";
import { insertPlacement, reserve, type Need } from "../db/queries/placements.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import { HostId } from "../../proto/ids.ts";
import type { MachineConfig } from "../../proto/rest.ts";

/** Hosts that are looked at first. */
const SAMPLE = 6;
/** Looks, in all: between a look and the reservation others may be quicker. */
const ATTEMPTS = 4;

export type Placed = { hostId: string } | { refusal: string };

export function needOf(config: MachineConfig): Need {
  const { cpus, memory_mb, disk_mb } = config.guest;
  return { cpus, memoryMib: memory_mb, diskMib: disk_mb };
}

/**
 * Reserves on the best of a few hosts, drawn at random, that has room, and writes the
 * placement. Looking at all of them would cost more with each host, and would send
 * every request of the moment to the same best one, to wait for its row's lock. All
 * are looked at only when none of the few will do.
 */
export async function place(tx: Db, machineId: string, need: Need): Promise<Placed> {
  let refusal = "";
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const rows =
      attempt === 0 ? await sampleHosts(tx, HostId.create(), SAMPLE) : await listHosts(tx);
    const choice = choose(rows.map(viewOf), need);
    for (const hostId of choice.candidates) {
      if (!(await reserve(tx, hostId, need))) continue;
      await insertPlacement(tx, { machineId, hostId, ...need, running: true });
      return { hostId };
    }
    refusal = choice.refusal;
    // Nobody was even a candidate: others took nothing from us.
    if (attempt > 0 && choice.candidates.length === 0) break;
  }
  return { refusal };
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
