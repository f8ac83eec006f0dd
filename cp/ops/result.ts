/** The end of an op, as its host tells it. A Result may come any number of times. */
import type { Report } from "../core/machine.ts";
import { ownedOf, ownsEpoch } from "../db/queries/hosts.ts";
import { finishImageJob, type JobOutcome } from "../db/queries/image-jobs.ts";
import { limitLockWaits } from "../db/queries/locks.ts";
import { lockMachine, lockMachines } from "../db/queries/machines.ts";
import { type EndedOp, finishDone, finishOp } from "../db/queries/ops.ts";
import { getPlacement, getPlacements, setRunning } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { isImageCommand } from "../db/schema/ops.ts";
import type { PlacementRow } from "../db/schema/placements.ts";
import type { Db } from "../db/index.ts";
import { LvError } from "../../proto/errors.ts";
import { ImageJobId } from "../../proto/ids.ts";
import { isAtRest } from "../../proto/states.ts";
import { afterEnd } from "./ended.ts";
import { judgeStart } from "./fleet.ts";
import { finishDestroy } from "./destroy-machine.ts";
import { saveMachine, transact, type Deps, type Effects } from "./deps.ts";
import { isNews } from "../core/machine.ts";
import { apply, type Origin } from "./report.ts";

/** Of a row that others hold: what waits longer is stored alone, and the rest goes on. */
const LOCK_MS = 1_000;

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
    const [machine, owned, placement] = await Promise.all([
      lockMachine(tx, result.machineId),
      ownsEpoch(tx, origin.hostId, origin.epoch),
      getPlacement(tx, result.machineId),
    ]);
    if (!owned) return false;
    const op = await finishOp(tx, result.opId, origin.hostId, outcomeOf(result));
    if (op !== undefined && isImageCommand(op.command))
      await finishImageJob(tx, op.machineId, origin.hostId, jobOutcome(result));
    else await learn(tx, effects, { origin, result, machine, placement, op });
    return true;
  });
}

/** What a stream has said. */
export type Said = { origin: Origin; result: OpResult };

/** True for what storeResults takes: a machine's op is done. */
export function isPlain({ error, machineId }: OpResult): boolean {
  return error === null && !ImageJobId.is(machineId);
}

/**
 * Plain Results, all of different hosts and machines, in one transaction and a few statements;
 * answers as storeResult does. When it throws, nothing is stored, and each is to be stored
 * alone: one of them may be what is wrong, or wait for somebody who is not there.
 */
export async function storeResults(deps: Deps, list: Said[]): Promise<boolean[]> {
  return transact(deps, async (tx, effects) => {
    const ids = list.map(({ result }) => result.machineId);
    // Sent at once, done one after the other: the machines first, here too.
    const [, locked, owned, placements] = await Promise.all([
      limitLockWaits(tx, LOCK_MS),
      lockMachines(tx, ids),
      ownedOf(
        tx,
        list.map(({ origin }) => origin),
      ),
      getPlacements(tx, ids),
    ]);
    const counted = list.filter(({ origin }) => owned.has(origin.hostId));
    const ended = await finishDone(
      tx,
      counted.map(({ origin, result }) => ({ opId: result.opId, hostId: origin.hostId })),
    );
    if (ended.some(({ command }) => isImageCommand(command)))
      throw new LvError("BAD_REQUEST", "A Result names an image job's op and a machine");
    const machines = new Map(locked.map((row) => [row.id, row]));
    const held = new Map(placements.map((row) => [row.machineId, row]));
    const ops = new Map(ended.map((row) => [row.id, row]));
    // By host, as their rows are locked: two of these must not wait for each other.
    for (const { origin, result } of counted.toSorted(byHost)) {
      const op = ops.get(result.opId);
      await learn(tx, effects, {
        origin,
        result,
        machine: machines.get(result.machineId),
        placement: held.get(result.machineId),
        op: op?.hostId === origin.hostId ? op : undefined,
      });
    }
    return list.map(({ origin }) => owned.has(origin.hostId));
  });
}

function byHost({ origin: { hostId: one } }: Said, { origin: { hostId: other } }: Said): number {
  return one < other ? -1 : Number(one > other);
}

type Learnt = Said & {
  machine: MachineRow | undefined;
  placement: PlacementRow | undefined;
  /** Undefined when it was closed before. */
  op: EndedOp | undefined;
};

/** What a Result says of the machine; its row is locked and the epoch is right. */
async function learn(tx: Db, effects: Effects, learnt: Learnt): Promise<void> {
  const { origin, result, placement, op } = learnt;
  let { machine } = learnt;
  if (machine === undefined || machine.hostId !== origin.hostId) return;
  if (machine.observedState === "destroyed") return;
  if (result.report !== null && isNews(machine, result.report, false))
    machine = await apply(tx, effects, machine, placement, result.report);
  if (op !== undefined) await settle(tx, effects, machine, op, result);
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
  op: EndedOp,
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
