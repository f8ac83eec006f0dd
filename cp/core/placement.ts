/**
 * Which host should hold a machine. Pure: scores a snapshot and returns the best
 * candidates; the guarded UPDATE decides, since the snapshot may be old.
 */
import type { HostState } from "../../proto/states.ts";

export type Resources = { cpus: number; memoryMib: number; diskMib: number };
export type HostView = {
  id: string;
  state: HostState;
  capacity: Resources;
  committed: Resources;
};

/** How many hosts are tried before giving up. */
export const CANDIDATES = 5;

export type Choice = { candidates: string[]; refusal: string };

type Obstacle = "not connected" | "cpus" | "memory" | "disk";

function obstacle(host: HostView, need: Resources): Obstacle | null {
  if (host.state !== "ready") return "not connected";
  if (host.capacity.memoryMib - host.committed.memoryMib < need.memoryMib) return "memory";
  if (host.capacity.cpus - host.committed.cpus < need.cpus) return "cpus";
  if (host.capacity.diskMib - host.committed.diskMib < need.diskMib) return "disk";
  return null;
}

/** Share of the scarcest resource in use after the placement, 0…1; less is better. */
function load(host: HostView, need: Resources): number {
  return Math.max(
    (host.committed.cpus + need.cpus) / host.capacity.cpus,
    (host.committed.memoryMib + need.memoryMib) / host.capacity.memoryMib,
    (host.committed.diskMib + need.diskMib) / host.capacity.diskMib,
  );
}

/**
 * Best hosts first; ties by id, so that the order is stable. `refusal` is for a
 * person and is used when no candidate takes the machine.
 */
export function choose(hosts: HostView[], need: Resources): Choice {
  const obstacles = new Map<Obstacle, number>();
  const open: HostView[] = [];
  for (const host of hosts) {
    const found = obstacle(host, need);
    if (found === null) open.push(host);
    else obstacles.set(found, (obstacles.get(found) ?? 0) + 1);
  }
  open.sort((a, b) => load(a, need) - load(b, need) || (a.id < b.id ? -1 : 1));
  return {
    candidates: open.slice(0, CANDIDATES).map((host) => host.id),
    refusal: refusal(hosts.length, obstacles, need),
  };
}

function refusal(total: number, obstacles: Map<Obstacle, number>, need: Resources): string {
  if (total === 0) return "No host is registered: start an agent that dials this control plane";
  const what =
    obstacles.size === 1 && obstacles.has("cpus")
      ? `${need.cpus} CPUs`
      : obstacles.size === 1 && obstacles.has("disk")
        ? `${need.diskMib} MiB of disk`
        : `${need.memoryMib} MiB`;
  const counts = [...obstacles].map(([name, count]) => `${count} ${name}`).join(", ");
  const noun = total === 1 ? "1 host" : `${total} hosts`;
  return `No host has room for ${what}: ${noun}: ${counts === "" ? "taken meanwhile" : counts}`;
}
