/**
 * Level-triggered repair: what is desired against what the host has. Runs with
 * the host's inventory at every Hello and from the stored states in between; ops
 * are only the fast path, and the loss of any of them is made good here.
 */
import { DEFAULT_PROJECT, OpId } from "../../proto/ids.ts";
import { isAtRest } from "../../proto/states.ts";
import { remedy, type Report } from "../core/machine.ts";
import type { Db } from "../db/index.ts";
import { ownsEpoch } from "../db/queries/hosts.ts";
import { findDiverged, getMachine, lockMachine, machinesOfHost } from "../db/queries/machines.ts";
import { hasOpenOp, insertOp, reopenAcked } from "../db/queries/ops.ts";
import { getPlacement, reserveAgain, setRunning } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { finishDestroy } from "./destroy-machine.ts";
import { addEvent, saveMachine, transact, type Deps, type Effects } from "./deps.ts";
import { issueDestroy, issueStart, issueStop } from "./issue.ts";
import { storeReport, type Origin } from "./report.ts";

const BATCH = 200;

export type InventoryEntry = { machineId: string; report: Report };

/** At Hello: stores what the host has, and mends what it lacks or should not have. */
export async function reconcileInventory(
  deps: Deps,
  origin: Origin,
  inventory: InventoryEntry[],
): Promise<void> {
  const present = new Set<string>();
  for (const { machineId, report } of inventory) {
    present.add(machineId);
    const outcome = await storeReport(deps, origin, machineId, report, true);
    if (outcome === "fenced") return;
    if (outcome === "stray") await destroyStray(deps, origin, machineId, report);
  }
  const rows = await machinesOfHost(deps.database.db, origin.hostId);
  for (const row of rows) if (!present.has(row.id)) await mendMissing(deps, origin, row.id);
  await reconcileHosts(deps, { hostId: origin.hostId });
}

/** A machine that only the host knows, or that is destroyed here, must not go on there. */
export async function destroyStray(
  deps: Deps,
  origin: Origin,
  machineId: string,
  report: Report,
): Promise<void> {
  await transact(deps, async (tx, effects) => {
    if (!(await ownsEpoch(tx, origin.hostId, origin.epoch))) return;
    const row = await getMachine(tx, machineId);
    // Asked once more here: between the report and now the row may have been made right.
    if (row !== undefined && row.hostId === origin.hostId && row.observedState !== "destroyed")
      return;
    if (await hasOpenOp(tx, machineId, origin.hostId)) return;
    deps.log.warn({ machineId, hostId: origin.hostId }, "destroying a machine nobody asked for");
    await addEvent(
      tx,
      {
        id: machineId,
        projectId: row?.projectId ?? DEFAULT_PROJECT,
        observedState: report.state,
      },
      {
        type: "stray",
        source: "system",
        message: `Found on host ${origin.hostId} without being wanted there; destroying it`,
      },
    );
    await insertOp(tx, {
      id: OpId.create(),
      machineId,
      hostId: origin.hostId,
      generation: Math.max(report.generation, row?.desiredGeneration ?? 0) + 1,
      command: { kind: "destroy" },
    });
    effects.hosts.add(origin.hostId);
  });
}

/** The host has never heard of a machine that is placed on it, or has lost it. */
async function mendMissing(deps: Deps, origin: Origin, machineId: string): Promise<void> {
  await transact(deps, async (tx, effects) => {
    const machine = await lockMachine(tx, machineId);
    if (machine === undefined || machine.observedState === "destroyed") return;
    if (!(await ownsEpoch(tx, origin.hostId, origin.epoch))) return;
    await reopenAcked(tx, machineId);
    // Reports of a journal that begins anew begin at 1.
    const change = { observedSequence: 0 };
    if (await hasOpenOp(tx, machineId, origin.hostId)) {
      const pending = machine.desiredState === "started" ? "starting" : machine.observedState;
      await saveMachine(tx, effects, machine, {
        ...change,
        observedState: pending,
        statusReason: null,
        statusMessage: null,
      });
      effects.hosts.add(origin.hostId);
      return;
    }
    const note = { source: "system", message: "The host does not have it" } as const;
    if (machine.desiredState === "destroyed") {
      await finishDestroy(tx, effects, machine, { type: "destroyed", ...note });
    } else if (isAtRest(machine.observedState)) {
      await saveMachine(tx, effects, machine, change);
    } else if (machine.desiredState === "stopped") {
      await setRunning(tx, await getPlacement(tx, machineId), false);
      const stopped = {
        ...change,
        observedState: "stopped",
        statusReason: null,
        statusMessage: null,
      } as const;
      await saveMachine(tx, effects, machine, stopped, { type: "stopped", ...note });
    } else {
      const reset = await saveMachine(tx, effects, machine, change);
      await issueStart(tx, effects, { ...reset, observedState: "unknown" }, origin.hostId, {
        type: "start",
        ...note,
      });
    }
  });
}

/** In between: machines of connected hosts that are not as desired and have no op under way. */
export async function reconcileHosts(
  deps: Deps,
  of: Parameters<typeof findDiverged>[1],
): Promise<void> {
  const rows = await findDiverged(deps.database.db, of, BATCH);
  for (const row of rows)
    if (remedy(row) !== null)
      await transact(deps, (tx, effects) => applyRemedy(tx, effects, row.id));
}

async function applyRemedy(tx: Db, effects: Effects, machineId: string): Promise<void> {
  const machine = await lockMachine(tx, machineId);
  if (machine === undefined || machine.hostId === null) return;
  if (await hasOpenOp(tx, machineId, machine.hostId)) return;
  const wanted = remedy(machine);
  const { hostId } = machine;
  const source = "system" as const;
  switch (wanted) {
    case null:
      return;
    case "start":
      if (await reserveAgain(tx, machineId))
        await issueStart(tx, effects, machine, hostId, { type: "start", source });
      return;
    case "stop":
      await issueStop(tx, effects, machine, hostId, stopOf(machine), { type: "stop", source });
      return;
    case "destroy":
      await issueDestroy(tx, effects, machine, hostId, { type: "destroy", source });
      return;
    default: {
      const rest: never = wanted;
      return rest;
    }
  }
}

function stopOf(machine: MachineRow): { signal: number; timeoutMs: number } {
  const { signal, timeout } = machine.config.stop_config;
  return { signal, timeoutMs: timeout * 1000 };
}
