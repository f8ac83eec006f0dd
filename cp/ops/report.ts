/** Storing what a host says about one machine. */
import { holdsCapacity, isNews, nextDesired, nextState, type Report } from "../core/machine.ts";
import type { Db } from "../db/index.ts";
import { ownsEpoch } from "../db/queries/hosts.ts";
import { lockMachine, type MachineChange } from "../db/queries/machines.ts";
import { getPlacement, setRunning } from "../db/queries/placements.ts";
import type { PlacementRow } from "../db/schema/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { afterEnd } from "./ended.ts";
import { finishDestroy } from "./destroy-machine.ts";
import { saveMachine, transact, type Deps, type Effects, type Note } from "./deps.ts";

/** The stream a report came by: writes count only while its epoch is the newest. */
export type Origin = { hostId: string; epoch: number };

/** "stray": no row, or a row that belongs to another host or is destroyed. */
export type Outcome = "stored" | "old" | "fenced" | "stray";

export async function storeReport(
  deps: Deps,
  origin: Origin,
  machineId: string,
  report: Report,
  fromInventory = false,
): Promise<Outcome> {
  return transact(deps, async (tx, effects) => {
    const [machine, owned, placement] = await Promise.all([
      lockMachine(tx, machineId),
      ownsEpoch(tx, origin.hostId, origin.epoch),
      getPlacement(tx, machineId),
    ]);
    if (!owned) return "fenced";
    if (machine === undefined || machine.hostId !== origin.hostId)
      return report.state === "destroyed" ? "old" : "stray";
    if (machine.observedState === "destroyed")
      return report.state === "destroyed" ? "old" : "stray";
    if (!isNews(machine, report, fromInventory)) return "old";
    await apply(tx, effects, machine, placement, report);
    return "stored";
  });
}

/** Applies a report that is news; the machine's row is locked, the placement is its. */
export async function apply(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  placement: PlacementRow | undefined,
  report: Report,
): Promise<MachineRow> {
  const state = nextState(machine, report);
  const note = noteOf(machine, report, state);
  if (state === "destroyed")
    return finishDestroy(tx, effects, machine, { type: "destroyed", source: "host" });
  const held = placement?.running ?? false;
  const stale = report.generation < machine.desiredGeneration;
  // A newer start has reserved for the run to come; the former run's end frees nothing.
  if (!(stale && machine.desiredState === "started"))
    await setRunning(tx, placement, holdsCapacity(state, held));
  const change: MachineChange = {
    observedState: state,
    // One that waits for its next run hears of its last one again.
    desiredState: machine.restartAt === null ? nextDesired(machine, report) : machine.desiredState,
    observedGeneration: Math.max(machine.observedGeneration, report.generation),
    observedSequence: report.sequence,
  };
  if (!stale || machine.desiredState !== "started") Object.assign(change, details(machine, report));
  const row = await saveMachine(tx, effects, machine, change, note);
  return afterEnd(tx, effects, machine, row);
}

function details(machine: MachineRow, report: Report): MachineChange {
  return {
    imageDigest: report.imageDigest ?? machine.imageDigest,
    statusReason: report.reason,
    statusMessage: report.message,
    exitCode: report.exit?.code ?? null,
    exitSignal: report.exit?.signal ?? null,
    bootUs: report.bootUs ?? machine.bootUs,
    startedAt: report.startedAtMs === null ? machine.startedAt : new Date(report.startedAtMs),
    stoppedAt: report.stoppedAtMs === null ? machine.stoppedAt : new Date(report.stoppedAtMs),
  };
}

/** Progress without a change of state is not history. */
function noteOf(machine: MachineRow, report: Report, state: string): Note | undefined {
  if (machine.observedState === state && machine.statusReason === report.reason) return undefined;
  const message = report.message ?? (report.exit === null ? null : `exit code ${report.exit.code}`);
  return {
    type: report.exit === null ? report.state : "exit",
    source: "host",
    reason: report.reason,
    message,
  };
}
