/** A host's stream is gone: what is said of its machines, and who is told. */
import { findAbandoned, markAllDisconnected, markDisconnected } from "../db/queries/hosts.ts";
import { forgetReplicas } from "../db/queries/replicas.ts";
import { markUnknown } from "../db/queries/machines.ts";
import { addEvent, transact, type Deps } from "./deps.ts";
import type { Origin } from "./report.ts";

/** Quiet for six heartbeats. */
const ABANDONED_AFTER_S = 30;

/** Marks the host down under this epoch; false when a newer stream has it. */
export async function hostDown(deps: Deps, origin: Origin): Promise<boolean> {
  if (!(await markDisconnected(deps.database.db, origin.hostId, origin.epoch))) return false;
  await hostLost(deps, origin.hostId);
  return true;
}

/** The host's row says so already: its machines are told, and those who wait for it. */
export async function hostLost(deps: Deps, hostId: string): Promise<void> {
  await loseMachines(deps, hostId);
  deps.changes.publish({ kind: "host", id: hostId });
}

/** At the start of the only control plane no stream is open, whatever the rows say. */
export async function allHostsDown(deps: Deps): Promise<void> {
  await forgetReplicas(deps.database.db);
  for (const hostId of await markAllDisconnected(deps.database.db))
    await loseMachines(deps, hostId);
}

/**
 * Hosts that this process has marked ready and whose streams ended while the
 * database could not be told.
 */
export async function sweepHosts(
  deps: Deps,
  replicaId: string,
  isOpen: (origin: Origin) => boolean,
): Promise<void> {
  const rows = await findAbandoned(deps.database.db, replicaId, ABANDONED_AFTER_S);
  for (const { id, epoch } of rows)
    if (!isOpen({ hostId: id, epoch })) await hostDown(deps, { hostId: id, epoch });
}

/** In a transaction of its own: the host's row and the machines' are never locked together here. */
async function loseMachines(deps: Deps, hostId: string): Promise<void> {
  await transact(deps, async (tx, effects) => {
    for (const row of await markUnknown(tx, hostId)) {
      await addEvent(tx, row, { type: "host_down", source: "system", reason: "HOST_UNAVAILABLE" });
      effects.changed.push(row);
    }
  });
}
