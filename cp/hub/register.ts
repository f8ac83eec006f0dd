/** Hello → a row that is ready under a new epoch, and the session that owns it. */
import { LvError } from "../../proto/errors.ts";
import type { Hello } from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId } from "../../proto/ids.ts";
import { activeKey } from "../db/queries/host-keys.ts";
import { recountCommitted, registerHost } from "../db/queries/hosts.ts";
import { inConflict } from "../ops/instances.ts";
import type { Peer } from "../ops/authority.ts";
import { transact, type Deps } from "../ops/deps.ts";
import type { InventoryEntry } from "../ops/reconcile.ts";
import type { Origin } from "../ops/report.ts";
import { reportFromWire } from "./wire.ts";

const NAME_MAX = 253;
const COUNT_MAX = 2 ** 31 - 1;

/**
 * Throws BAD_REQUEST for a Hello that no configuration of an honest agent produces,
 * PERMISSION_DENIED for one that speaks for another host than its certificate or with
 * a key that may not. `peer`: null on a plain link.
 */
export async function register(
  deps: Deps,
  hello: Hello,
  replicaId: string,
  peer: Peer | null = null,
): Promise<Origin> {
  const hostId = hostOf(hello, peer);
  const { capacity } = hello;
  if (capacity === undefined || capacity.cpus === 0 || capacity.memoryMib === 0n)
    throw new LvError("BAD_REQUEST", "Hello offers no capacity");
  if (capacity.memoryMib > COUNT_MAX || capacity.diskMib > COUNT_MAX || capacity.cpus > COUNT_MAX)
    throw new LvError("BAD_REQUEST", "Hello offers more capacity than there is");
  if (hello.kvm !== "direct" && hello.kvm !== "lab")
    throw new LvError("BAD_REQUEST", `Hello says kvm "${hello.kvm.slice(0, 40)}"`);
  const fields = {
    id: hostId,
    hostname: clean(hello.hostname) || hostId,
    arch: clean(hello.arch),
    kvm: hello.kvm,
    version: clean(hello.version),
    labels: Object.fromEntries(
      Object.entries(hello.labels).map(([key, value]) => [clean(key), clean(value)]),
    ),
    bootId: clean(hello.bootId),
    ownerReplica: replicaId,
    capacityCpus: capacity.cpus,
    capacityMemoryMib: Number(capacity.memoryMib),
    capacityDiskMib: Number(capacity.diskMib),
  } as const;
  const epoch = await transact(deps, async (tx) => {
    if (peer !== null && (await activeKey(tx, hostId))?.keyHash !== peer.keyHash)
      throw new LvError("PERMISSION_DENIED", `This key does not speak for ${hostId} any more`);
    const state = (await inConflict(tx, hostId, clean(hello.instance))) ? "conflict" : "ready";
    const next = await registerHost(tx, fields, state);
    await recountCommitted(tx, hostId);
    return next;
  });
  return { hostId, epoch };
}

function hostOf(hello: Hello, peer: Peer | null): HostId {
  if (peer === null) return hello.hostId === "" ? HostId.create() : HostId.parse(hello.hostId);
  if (hello.hostId !== "" && hello.hostId !== peer.hostId)
    throw new LvError(
      "PERMISSION_DENIED",
      `The certificate is ${peer.hostId}'s, and Hello claims "${clean(hello.hostId)}"`,
    );
  return peer.hostId;
}

export function inventoryOf(hello: Hello): InventoryEntry[] {
  return hello.inventory.map((status) => ({
    machineId: status.machineId,
    report: reportFromWire(status),
  }));
}

function clean(value: string): string {
  return value.replaceAll("\0", "").slice(0, NAME_MAX);
}
