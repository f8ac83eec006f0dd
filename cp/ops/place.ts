/** Finding room for a machine inside the transaction that needs it. */
import { choose, type HostView, type Wishes } from "../core/placement.ts";
import type { Db } from "../db/index.ts";
import { hostsWithName } from "../db/queries/host-images.ts";
import { hostsByIds, listHosts, sampleHosts, type HostLook } from "../db/queries/hosts.ts";
import { hostsOfGroup, hostsWithImage } from "../db/queries/machines.ts";
import { insertPlacement, reserve, type Need } from "../db/queries/placements.ts";
import { lockProject } from "../db/queries/projects.ts";
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

/** What a few hosts look like, and what the machine wants of them. */
export type Survey = { hosts: HostLook[]; wishes: Wishes };

/**
 * A few hosts, drawn at random, beside some that have the image. Looking at all of them
 * would cost more with each host, and would send every request of the moment to the same
 * best one, to wait for its row's lock.
 */
export async function survey(tx: Db, machine: Placeable): Promise<Survey> {
  const from = HostId.create();
  const { image } = machine.config;
  const [sample, near, taken] = await Promise.all([
    sampleHosts(tx, from, SAMPLE),
    warmHosts(tx, image, from),
    takenBy(tx, machine),
  ]);
  // A sample that went round the end is most of a small fleet: then all of it is asked.
  const wrapped = sample.some(({ id }) => id < from);
  const warm = wrapped && near.length < WARM ? await warmHosts(tx, image, "") : near;
  const wishes = {
    labels: machine.config.placement?.labels ?? {},
    taken: new Set(taken),
    warm: new Set(warm),
  };
  return { hosts: await withWarm(tx, sample, warm), wishes };
}

/**
 * Reserves on the best host of the survey that has room; all hosts are looked at only
 * when none of those will do.
 */
export async function reserveBest(tx: Db, need: Need, { hosts, wishes }: Survey): Promise<Placed> {
  let refusal = "";
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const rows = attempt === 0 ? hosts : await listHosts(tx);
    const choice = choose(rows.map(viewOf), need, wishes);
    for (const hostId of choice.candidates) if (await reserve(tx, hostId, need)) return { hostId };
    refusal = choice.refusal;
    // Nobody was even a candidate: others took nothing from us.
    if (attempt > 0 && choice.candidates.length === 0) break;
  }
  return { refusal };
}

/** Finds room, reserves it and writes the placement of a machine that has a row. */
export async function place(tx: Db, machine: Placeable): Promise<Placed> {
  const need = needOf(machine.config);
  const placed = await reserveBest(tx, need, await survey(tx, machine));
  if ("hostId" in placed)
    await insertPlacement(tx, {
      machineId: machine.id,
      hostId: placed.hostId,
      ...need,
      running: true,
    });
  return placed;
}

/** By what the hosts say of their images, else by the machines that they have had. */
async function warmHosts(tx: Db, image: string, from: string): Promise<string[]> {
  const normal = normalReference(image);
  if (normal === null) return [];
  const at = normal.indexOf("@");
  const [found, had] = await Promise.all([
    hostsWithName(tx, at < 0 ? normal : normal.slice(at + 1), from, WARM),
    hostsWithImage(tx, image, from, WARM),
  ]);
  return found.length > 0 ? found : had;
}

async function withWarm(tx: Db, sample: HostLook[], warm: string[]): Promise<HostLook[]> {
  const more = warm.filter((id) => !sample.some((host) => host.id === id));
  return more.length === 0 ? sample : [...sample, ...(await hostsByIds(tx, more))];
}

/** Hosts of the other machines of its anti-affinity group. */
async function takenBy(tx: Db, machine: Placeable): Promise<string[]> {
  const group = machine.config.placement?.anti_affinity;
  if (group === undefined) return [];
  // One after the other: two of a group must not choose the same host at the same time.
  await lockProject(tx, machine.projectId);
  return hostsOfGroup(tx, machine.projectId, group, machine.id);
}

export function viewOf(row: HostLook): HostView {
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
