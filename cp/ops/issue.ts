/** Writing an op: each one takes the machine's next generation. Callers hold the row's lock. */
import { OpId } from "../../proto/ids.ts";
import { transition } from "../../proto/states.ts";
import type { Db } from "../db/index.ts";
import { insertEvents } from "../db/queries/events.ts";
import { insertMachine } from "../db/queries/machines.ts";
import { insertOp } from "../db/queries/ops.ts";
import { insertPlacement, type Need } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import type { OpCommand } from "../db/schema/ops.ts";
import { eventOf, saveMachine, type Effects, type Note } from "./deps.ts";

/** What a machine is before it has a row. */
export type Draft = Pick<
  MachineRow,
  "id" | "projectId" | "name" | "config" | "image" | "antiAffinity"
>;

/**
 * Machine, placement, history and first op of a machine whose room is reserved, in one
 * round trip to the database.
 */
export async function insertStarted(
  tx: Db,
  effects: Effects,
  draft: Draft,
  room: { hostId: string } & Need,
): Promise<MachineRow> {
  const { id, projectId } = draft;
  const observedState = transition("created", "request_start");
  const created = { id, projectId, observedState: "created" } as const;
  const [row] = await Promise.all([
    insertMachine(tx, {
      ...draft,
      hostId: room.hostId,
      incarnation: 1,
      desiredState: "started",
      desiredGeneration: 1,
      observedState,
    }),
    insertPlacement(tx, { machineId: id, ...room, running: true }),
    insertEvents(
      tx,
      eventOf(created, { type: "create", source: "user" }),
      eventOf({ ...created, observedState }, { type: "start", source: "user" }),
    ),
    send(tx, effects, { id, desiredGeneration: 1 }, room.hostId, { kind: "start", incarnation: 1 }),
  ]);
  effects.changed.push(row);
  return row;
}

/** A run of the machine begins: its capacity is reserved already. */
export async function issueStart(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  hostId: string,
  note: Note,
): Promise<MachineRow> {
  const incarnation = machine.incarnation + 1;
  const row = await saveMachine(
    tx,
    effects,
    machine,
    {
      hostId,
      incarnation,
      restarts: machine.restarts,
      desiredState: "started",
      desiredGeneration: machine.desiredGeneration + 1,
      observedState: transition(machine.observedState, "request_start"),
      restartAt: null,
      version: machine.version + 1,
      statusReason: null,
      statusMessage: null,
      exitCode: null,
      exitSignal: null,
      bootUs: null,
      startedAt: null,
      stoppedAt: null,
    },
    note,
  );
  await send(tx, effects, row, hostId, { kind: "start", incarnation });
  return row;
}

export async function issueStop(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  hostId: string,
  stop: { signal: number; timeoutMs: number },
  note: Note,
): Promise<MachineRow> {
  const row = await saveMachine(
    tx,
    effects,
    machine,
    {
      desiredState: "stopped",
      desiredGeneration: machine.desiredGeneration + 1,
      // Asked again, a machine that is stopping stays so.
      observedState:
        machine.observedState === "stopping"
          ? "stopping"
          : transition(machine.observedState, "request_stop"),
      statusReason: null,
      statusMessage: null,
      version: machine.version + 1,
    },
    note,
  );
  await send(tx, effects, row, hostId, { kind: "stop", ...stop });
  return row;
}

export async function issueDestroy(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  hostId: string,
  note: Note,
): Promise<MachineRow> {
  const row = await saveMachine(
    tx,
    effects,
    machine,
    {
      desiredState: "destroyed",
      desiredGeneration: machine.desiredGeneration + 1,
      observedState: transition(machine.observedState, "request_destroy"),
      version: machine.version + 1,
    },
    note,
  );
  await send(tx, effects, row, hostId, { kind: "destroy" });
  return row;
}

async function send(
  tx: Db,
  effects: Effects,
  machine: Pick<MachineRow, "id" | "desiredGeneration">,
  hostId: string,
  command: OpCommand,
): Promise<void> {
  await insertOp(tx, {
    id: OpId.create(),
    machineId: machine.id,
    hostId,
    generation: machine.desiredGeneration,
    command,
  });
  effects.hosts.add(hostId);
}
