import { LvError } from "../../proto/errors.ts";
import { isAtRest } from "../../proto/states.ts";
import type { Db } from "../db/index.ts";
import { getHost } from "../db/queries/hosts.ts";
import { lockMachine } from "../db/queries/machines.ts";
import { getPlacement, reserveAgain } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { transact, type Deps } from "./deps.ts";
import { issueStart } from "./issue.ts";
import { checkLease } from "./lease.ts";
import { needOf, place, viewOf } from "./place.ts";
import { checkQuota } from "./projects.ts";
import { choose } from "../core/placement.ts";

/**
 * Asks for a run of a machine. One that is wanted started already is returned as
 * it is. Throws MACHINE_NOT_FOUND, STATE_CONFLICT, NO_CAPACITY, HOST_UNAVAILABLE,
 * QUOTA_EXCEEDED.
 */
export async function startMachine(deps: Deps, id: string, nonce?: string): Promise<MachineRow> {
  return transact(deps, async (tx, effects) => {
    const machine = await lockMachine(tx, id);
    if (machine === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    await checkLease(tx, machine, nonce);
    if (machine.desiredState === "destroyed")
      throw new LvError("STATE_CONFLICT", `Cannot start "${machine.name}": it is being destroyed`);
    // One that waits for its next run gets it now.
    if (machine.desiredState === "started" && machine.restartAt === null) return machine;
    if (!isAtRest(machine.observedState) && machine.observedState !== "stopping")
      throw new LvError(
        "STATE_CONFLICT",
        `Cannot start "${machine.name}": it is ${machine.observedState} and was asked to stop`,
      );
    const { cpus, memoryMib } = needOf(machine.config);
    // It counts as a machine, and its disk counts, since it exists.
    const added = { machines: 0, cpus, memoryMib, diskMib: 0 };
    // A run that waits to be due counts already.
    if (machine.desiredState !== "started") await checkQuota(tx, machine.projectId, added);
    const hostId = await makeRoom(tx, machine);
    const fresh = { ...machine, restarts: 0 };
    return issueStart(tx, effects, fresh, hostId, { type: "start", source: "user" });
  });
}

/** A machine that was placed stays on its host: its disk is there. */
async function makeRoom(tx: Db, machine: MachineRow): Promise<string> {
  const need = needOf(machine.config);
  if (machine.hostId === null) {
    const placed = await place(tx, machine);
    if ("refusal" in placed) throw new LvError("NO_CAPACITY", placed.refusal);
    return placed.hostId;
  }
  if (await reserveAgain(tx, machine.id)) return machine.hostId;
  const host = await getHost(tx, machine.hostId);
  if (host === undefined || host.state !== "ready")
    throw new LvError(
      "HOST_UNAVAILABLE",
      `Cannot start "${machine.name}": its host ${host?.hostname ?? machine.hostId} is not connected`,
    );
  if (host.cordoned || host.quarantinedUntil !== null)
    throw new LvError(
      "HOST_UNAVAILABLE",
      `Cannot start "${machine.name}": its host ${host.hostname} is ${host.cordoned ? "cordoned" : "quarantined"}`,
    );
  const held = await getPlacement(tx, machine.id);
  // Its disk is counted on that host already.
  const { refusal } = choose([viewOf(host)], {
    ...need,
    diskMib: held === undefined ? need.diskMib : 0,
  });
  throw new LvError(
    "NO_CAPACITY",
    refusal.replace("No host has", `Its host ${host.hostname} has no`),
  );
}
