/** Machines that wait for room, and machines that must leave their host. */
import type { Db } from "../db/index.ts";
import { findPending, lockMachine } from "../db/queries/machines.ts";
import { insertOp } from "../db/queries/ops.ts";
import { removePlacement } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { OpId } from "../../proto/ids.ts";
import { saveMachine, transact, type Deps, type Effects, type Note } from "./deps.ts";
import { issueStart } from "./issue.ts";
import { place } from "./place.ts";

const BATCH = 100;

/** No host has room: the machine waits, and its state says why. The row is locked. */
export function becomePending(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  refusal: string,
): Promise<MachineRow> {
  return saveMachine(
    tx,
    effects,
    machine,
    {
      hostId: null,
      desiredState: "started",
      observedState: "pending",
      observedSequence: 0,
      restartAt: null,
      statusReason: "NO_CAPACITY",
      statusMessage: refusal,
    },
    { type: "pending", source: "system", reason: "NO_CAPACITY", message: refusal },
  );
}

/** Oldest first; one that does not fit does not keep a smaller one waiting. */
export async function placePending(deps: Deps): Promise<void> {
  for (const { id } of await findPending(deps.database.db, BATCH))
    await transact(deps, async (tx, effects) => {
      const machine = await lockMachine(tx, id);
      if (machine === undefined || machine.observedState !== "pending") return;
      const placed = await place(tx, machine);
      if ("hostId" in placed)
        await issueStart(tx, effects, machine, placed.hostId, { type: "start", source: "system" });
      else if (placed.refusal !== machine.statusMessage)
        await saveMachine(tx, effects, machine, { statusMessage: placed.refusal });
    });
}

/**
 * Begins the machine's next run on another host; its disk stays behind and is
 * removed. At rest, and its row locked.
 */
export async function moveAway(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  from: string,
): Promise<MachineRow> {
  await removePlacement(tx, machine.id);
  const placed = await place(tx, machine);
  // The new host's journal begins at 1 for this machine.
  const leaving = { ...machine, hostId: null, observedSequence: 0 };
  const note: Note = { type: "move", source: "system", message: `leaves host ${from}` };
  let row: MachineRow;
  if ("hostId" in placed) {
    await saveMachine(tx, effects, machine, { observedSequence: 0 });
    row = await issueStart(tx, effects, leaving, placed.hostId, note);
  } else {
    row = await becomePending(tx, effects, leaving, placed.refusal);
  }
  await insertOp(tx, {
    id: OpId.create(),
    machineId: machine.id,
    hostId: from,
    generation: row.desiredGeneration + ("hostId" in placed ? 0 : 1),
    command: { kind: "destroy" },
  });
  effects.hosts.add(from);
  return row;
}
