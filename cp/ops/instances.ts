import { arrive, isConflict } from "../core/instances.ts";
import type { Db } from "../db/index.ts";
import { lockInstances, putInstances, settleConflicts } from "../db/queries/host-instances.ts";
import type { Deps } from "./deps.ts";

/**
 * Notes which run of the agent registers; true when two of them take turns. Agents of
 * a release that does not name its runs are never in conflict.
 */
export async function inConflict(tx: Db, hostId: string, instance: string): Promise<boolean> {
  if (instance === "") return false;
  const known = await lockInstances(tx, hostId);
  const next = arrive(known, instance);
  if (next === null) return known !== null && isConflict(known);
  const returned = known?.earlier.includes(instance) === true;
  await putInstances(tx, hostId, next, returned);
  return isConflict(next);
}

export async function endConflicts(deps: Deps): Promise<void> {
  for (const hostId of await settleConflicts(deps.database.db)) {
    deps.log.info({ hostId }, "one agent speaks for the host again");
    deps.changes.publish({ kind: "host", id: hostId });
  }
}
