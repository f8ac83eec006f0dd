/** What every operation is given, and the one way in which operations write. */
import type { Clock } from "../../lib/clock.ts";
import type { Log } from "../../lib/log.ts";
import { EventId } from "../../proto/ids.ts";
import type { Database, Db } from "../db/index.ts";
import { insertEvents, type NewEvent } from "../db/queries/events.ts";
import { updateMachine, type MachineChange } from "../db/queries/machines.ts";
import type { EventRow } from "../db/schema/events.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import type { Changes } from "./changes.ts";

export type Deps = {
  database: Database;
  clock: Clock;
  log: Log;
  changes: Changes;
  /** Tells the hub that the host has something to be sent. Losing it costs a poll period. */
  wake(hostId: string): void;
};

/** What a transaction wants known once it is committed. */
export class Effects {
  readonly changed: MachineRow[] = [];
  readonly hosts = new Set<string>();
}

/** Runs the work, commits, and then tells those who wait. */
export async function transact<T>(
  deps: Deps,
  work: (tx: Db, effects: Effects) => Promise<T>,
): Promise<T> {
  // Made inside: a transaction that is repeated must not tell of its first try.
  const { value, effects } = await deps.database.transaction(async (tx) => {
    const made = new Effects();
    return { value: await work(tx, made), effects: made };
  });
  for (const row of effects.changed)
    deps.changes.publish({ kind: "machine", id: row.id, state: row.observedState });
  for (const id of effects.hosts) deps.wake(id);
  return value;
}

export type Note = Pick<EventRow, "type" | "source"> & {
  reason?: string | null;
  message?: string | null;
};

/** Changes the machine's row and appends to its history. The row is locked. */
export async function saveMachine(
  tx: Db,
  effects: Effects,
  machine: Noted,
  change: MachineChange,
  note?: Note,
): Promise<MachineRow> {
  const [row] = await Promise.all([
    updateMachine(tx, machine.id, change),
    note === undefined ? undefined : addEvent(tx, { ...machine, ...stateOf(change) }, note),
  ]);
  effects.changed.push(row);
  return row;
}

function stateOf({ observedState }: MachineChange): Partial<Noted> {
  return observedState === undefined ? {} : { observedState };
}

export async function addEvent(tx: Db, machine: Noted, note: Note): Promise<void> {
  await insertEvents(tx, eventOf(machine, note));
}

type Noted = Pick<MachineRow, "id" | "projectId" | "observedState">;

export function eventOf(machine: Noted, note: Note): NewEvent {
  return {
    id: EventId.create(),
    projectId: machine.projectId,
    machineId: machine.id,
    type: note.type,
    status: machine.observedState,
    source: note.source,
    reason: note.reason ?? null,
    message: note.message ?? null,
  };
}
