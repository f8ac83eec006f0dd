import { LvError } from "../../proto/errors.ts";
import type { Db } from "../db/index.ts";
import { getHost } from "../db/queries/hosts.ts";
import { lockMachine } from "../db/queries/machines.ts";
import { closeOps } from "../db/queries/ops.ts";
import { removePlacement } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { saveMachine, transact, type Deps, type Effects, type Note } from "./deps.ts";
import { issueDestroy } from "./issue.ts";
import { checkLease } from "./lease.ts";

/**
 * Asks for the end of the machine and of all it has. Idempotent. A machine that
 * never had a host is destroyed at once; with `force` one whose host is away, too.
 * Throws MACHINE_NOT_FOUND, LEASE_HELD.
 */
export async function destroyMachine(
  deps: Deps,
  id: string,
  options: { nonce?: string | undefined; force?: boolean } = {},
): Promise<MachineRow> {
  return transact(deps, async (tx, effects) => {
    const machine = await lockMachine(tx, id);
    if (machine === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    await checkLease(tx, machine, options.nonce);
    if (options.force === true && (await isAway(tx, machine)))
      return finishDestroy(tx, effects, machine, {
        type: "destroy",
        source: "user",
        message: "Its host is away: forced. Should the host come back, it removes the machine",
      });
    if (machine.desiredState === "destroyed") return machine;
    const note: Note = { type: "destroy", source: "user" };
    if (machine.hostId === null) return finishDestroy(tx, effects, machine, note);
    return issueDestroy(tx, effects, machine, machine.hostId, note);
  });
}

async function isAway(tx: Db, machine: MachineRow): Promise<boolean> {
  if (machine.hostId === null || machine.observedState === "destroyed") return false;
  const host = await getHost(tx, machine.hostId);
  return host === undefined || host.state === "disconnected" || host.state === "lost";
}

/** Nothing of the machine is left on any host. The row is locked by the caller. */
export async function finishDestroy(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  note: Note,
): Promise<MachineRow> {
  await closeOps(tx, machine.id);
  await removePlacement(tx, machine.id);
  return saveMachine(
    tx,
    effects,
    machine,
    { desiredState: "destroyed", observedState: "destroyed" },
    note,
  );
}
