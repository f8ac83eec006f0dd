/**
 * Which host should hold a machine. Pure: scores a snapshot and returns the best
 * candidates; the guarded UPDATE decides, since the snapshot may be old.
 */
import type { HostState } from "../../proto/states.ts";

export type Resources = { cpus: number; memoryMib: number; diskMib: number };
export type HostView = {
  id: string;
  state: HostState;
  cordoned: boolean;
  quarantined: boolean;
  /** What the host says of itself, `arch` and `kvm` included. */
  labels: Record<string, string>;
  capacity: Resources;
  committed: Resources;
};

/** What a machine asks of its host beside room. */
export type Wishes = {
  labels: Record<string, string>;
  /** Hosts that hold another machine of its anti-affinity group. */
  taken: ReadonlySet<string>;
  /** Hosts that have had its image. */
  warm: ReadonlySet<string>;
};

export const NO_WISHES: Wishes = { labels: {}, taken: new Set(), warm: new Set() };

/** How many hosts are tried before giving up. */
export const CANDIDATES = 5;
/** An image that is there already is worth this share of a host's load. */
const WARM_BONUS = 0.25;

export type Choice = { candidates: string[]; refusal: string };

/** The first filter that a host fails, in the words of the refusal. */
function obstacle(host: HostView, need: Resources, wishes: Wishes): string | null {
  switch (host.state) {
    case "ready":
      break;
    case "disconnected":
      return "not connected";
    case "suspect":
    case "conflict":
    case "lost":
      return host.state;
    default: {
      const rest: never = host.state;
      return rest;
    }
  }
  if (host.cordoned) return "cordoned";
  if (host.quarantined) return "quarantined";
  for (const [key, value] of Object.entries(wishes.labels))
    if (host.labels[key] !== value) return `label ${key}=${value}`;
  if (wishes.taken.has(host.id)) return "anti-affinity";
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
export function choose(hosts: HostView[], need: Resources, wishes: Wishes = NO_WISHES): Choice {
  const obstacles = new Map<string, number>();
  const open: HostView[] = [];
  for (const host of hosts) {
    const found = obstacle(host, need, wishes);
    if (found === null) open.push(host);
    else obstacles.set(found, (obstacles.get(found) ?? 0) + 1);
  }
  const cost = (host: HostView): number =>
    load(host, need) - (wishes.warm.has(host.id) ? WARM_BONUS : 0);
  open.sort((a, b) => cost(a) - cost(b) || (a.id < b.id ? -1 : 1));
  return {
    candidates: open.slice(0, CANDIDATES).map((host) => host.id),
    refusal: refusal(hosts.length, obstacles, need),
  };
}

function refusal(total: number, obstacles: Map<string, number>, need: Resources): string {
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
