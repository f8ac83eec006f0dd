/** The end of an op, as its host tells it. A Result may come any number of times. */
import type { Report } from "../core/machine.ts";
import { ownsEpoch } from "../db/queries/hosts.ts";
import { finishImageJob, type JobOutcome } from "../db/queries/image-jobs.ts";
import { lockMachine } from "../db/queries/machines.ts";
import { finishOp } from "../db/queries/ops.ts";
import { getPlacement, setRunning } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { isImageCommand, type OpRow } from "../db/schema/ops.ts";
import type { Db } from "../db/index.ts";
import { isAtRest } from "../../proto/states.ts";
import { afterEnd } from "./ended.ts";
import { judgeStart } from "./fleet.ts";
import { finishDestroy } from "./destroy-machine.ts";
import { saveMachine, transact, type Deps, type Effects } from "./deps.ts";
import { isNews } from "../core/machine.ts";
import { apply, type Origin } from "./report.ts";

const TOO_OLD = {
  reason: "UNIMPLEMENTED",
  message: "The host's agent does not know this operation yet: upgrade it",
};

export type OpResult = {
  opId: string;
  machineId: string;
  error: { reason: string; message: string } | null;
  report: Report | null;
  image: { digest: string | null; bytes: number; removed: number } | null;
};

/** True when the Result is stored, now or before, and the host may forget it. */
export async function storeResult(deps: Deps, origin: Origin, result: OpResult): Promise<boolean> {
  return transact(deps, async (tx, effects) => {
    // The machine first: everything else that takes both locks does so in this order.
    const [locked, owned, placement] = await Promise.all([
      lockMachine(tx, result.machineId),
      ownsEpoch(tx, origin.hostId, origin.epoch),
      getPlacement(tx, result.machineId),
    ]);
    let machine = locked;
    if (!owned) return false;
    const op = await finishOp(tx, result.opId, origin.hostId, outcomeOf(result));
    if (op !== undefined && isImageCommand(op.command)) {
      await finishImageJob(tx, op.machineId, origin.hostId, jobOutcome(result));
      return true;
    }
    if (machine === undefined || machine.hostId !== origin.hostId) return true;
    if (machine.observedState === "destroyed") return true;
    if (result.report !== null && isNews(machine, result.report, false))
      machine = await apply(tx, effects, machine, placement, result.report);
    if (op !== undefined) await settle(tx, effects, machine, op, result);
    return true;
  });
}

function outcomeOf(result: OpResult): Parameters<typeof finishOp>[3] {
  if (result.error === null) return { state: "done", reason: null, message: null };
  const state = result.error.reason === "SUPERSEDED" ? "superseded" : "failed";
  return { state, ...result.error };
}

/** What the op's end alone says, where the report that came with it does not say it. */
async function settle(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
  op: OpRow,
  result: OpResult,
): Promise<void> {
  if (op.generation < machine.desiredGeneration || machine.observedState === "destroyed") return;
  const { error } = result;
  const gone = error?.reason === "MACHINE_NOT_FOUND";
  const at = { observedGeneration: op.generation };
  switch (op.command.kind) {
    case "start":
      await judgeStart(tx, op.hostId, error?.reason ?? null);
      if (error === null || error.reason === "SUPERSEDED") return;
      if (machine.observedState === "failed" && machine.statusReason !== null) return;
      await setRunning(tx, await getPlacement(tx, machine.id), false);
      await afterEnd(
        tx,
        effects,
        machine,
        await saveMachine(
          tx,
          effects,
          machine,
          {
            ...at,
            desiredState: "stopped",
            observedState: "failed",
            statusReason: error.reason,
            statusMessage: error.message,
          },
          { type: "failed", source: "host", ...error },
        ),
      );
      return;
    case "stop":
      if (!gone || isAtRest(machine.observedState)) return;
      await setRunning(tx, await getPlacement(tx, machine.id), false);
      await saveMachine(
        tx,
        effects,
        machine,
        { ...at, observedState: "stopped" },
        { type: "stopped", source: "host" },
      );
      return;
    case "destroy":
      if (error === null || gone)
        await finishDestroy(tx, effects, machine, { type: "destroyed", source: "host" });
      return;
    case "pull_image":
    case "prune_images":
    case "pin_image":
    case "remove_image":
      return; // no machine's business
    default: {
      const rest: never = op.command;
      return rest;
    }
  }
}

function jobOutcome({ error: told, image }: OpResult): JobOutcome {
  // An agent of before these operations takes the job's id for a machine's, and refuses it.
  const error = told?.reason === "BAD_REQUEST" ? TOO_OLD : told;
  return {
    digest: image?.digest ?? null,
    bytes: image?.bytes ?? null,
    removed: image?.removed ?? null,
    errorReason: error?.reason ?? null,
    errorMessage: error?.message ?? null,
  };
}
