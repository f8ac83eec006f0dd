/** Finding room for a machine inside the transaction that needs it. */
import { choose, type HostView, type Wishes } from "../core/placement.ts";
import type { Db } from "../db/index.ts";
import { hostsWithName } from "../db/queries/host-images.ts";
import { hostsByIds, listHosts, sampleHosts } from "../db/queries/hosts.ts";
import { hostsOfGroup, hostsWithImage } from "../db/queries/machines.ts";
import { insertPlacement, reserve, type Need } from "../db/queries/placements.ts";
import { lockProject } from "../db/queries/projects.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { HostId } from "../../proto/ids.ts";
import { normalReference } from "../../proto/image-reference.ts";
import type { MachineConfig } from "../../proto/rest.ts";

/** Hosts that are looked at first. */
const SAMPLE = 6;
/** Hosts that have the image and are looked at beside them. */
const WARM = 3;
/** Looks, in all: between a look and the reservation others may be quicker. */
const ATTEMPTS = 4;

export type Placed = { hostId: string } | { refusal: string };
export type Placeable = Pick<MachineRow, "id" | "projectId" | "config">;

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
export async function place(tx: Db, machine: Placeable): Promise<Placed> {
  const need = needOf(machine.config);
  const from = HostId.create();
  const sample = await sampleHosts(tx, from, SAMPLE);
  // A sample that went round the end is most of a small fleet: then all of it is asked.
  const wrapped = sample.some(({ id }) => id < from);
  const warm = await warmHosts(tx, machine.config.image, wrapped ? "" : from);
  const wishes = await wishesOf(tx, machine, warm);
  let refusal = "";
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const rows = attempt === 0 ? await withWarm(tx, sample, warm) : await listHosts(tx);
    const choice = choose(rows.map(viewOf), need, wishes);
    for (const hostId of choice.candidates) {
      if (!(await reserve(tx, hostId, need))) continue;
      await insertPlacement(tx, { machineId: machine.id, hostId, ...need, running: true });
      return { hostId };
    }
    refusal = choice.refusal;
    // Nobody was even a candidate: others took nothing from us.
    if (attempt > 0 && choice.candidates.length === 0) break;
  }
  return { refusal };
}

/** By what the hosts say of their images, else by the machines that they have had. */
async function warmHosts(tx: Db, image: string, from: string): Promise<string[]> {
  const normal = normalReference(image);
  if (normal === null) return [];
  const at = normal.indexOf("@");
  const found = await hostsWithName(tx, at < 0 ? normal : normal.slice(at + 1), from, WARM);
  return found.length > 0 ? found : hostsWithImage(tx, image, from, WARM);
}

async function withWarm(tx: Db, sample: HostRow[], warm: string[]): Promise<HostRow[]> {
  const more = warm.filter((id) => !sample.some((host) => host.id === id));
  return more.length === 0 ? sample : [...sample, ...(await hostsByIds(tx, more))];
}

async function wishesOf(tx: Db, machine: Placeable, warm: string[]): Promise<Wishes> {
  const { placement } = machine.config;
  const group = placement?.anti_affinity;
  // One after the other: two of a group must not choose the same host at the same time.
  if (group !== undefined) await lockProject(tx, machine.projectId);
  const taken =
    group === undefined ? [] : await hostsOfGroup(tx, machine.projectId, group, machine.id);
  return { labels: placement?.labels ?? {}, taken: new Set(taken), warm: new Set(warm) };
}

export function viewOf(row: HostRow): HostView {
  return {
    id: row.id,
    state: row.state,
    cordoned: row.cordoned,
    quarantined: row.quarantinedUntil !== null,
    labels: { arch: row.arch, kvm: row.kvm, ...row.labels },
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
