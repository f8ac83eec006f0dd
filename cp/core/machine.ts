/**
 * What a host's report makes of a machine's row. Pure: rows in, changes out.
 *
 * A report whose generation is smaller than the desired one was written before
 * the host had seen the newest request. Such a report still moves the sequence,
 * but must not undo what the request has already announced: a machine that was
 * asked to start again stays "starting" though its former run reports "stopped".
 */
import {
  isAtRest,
  transition,
  type DesiredState,
  type MachineEvent,
  type MachineState,
} from "../../proto/states.ts";

export type Report = {
  state: MachineState;
  generation: number;
  incarnation: number;
  sequence: number;
  reason: string | null;
  message: string | null;
  exit: { code: number; signal: number } | null;
  imageDigest: string | null;
  bootUs: number | null;
  startedAtMs: number | null;
  stoppedAtMs: number | null;
};

/** The part of a machine's row that reports touch. */
export type Observed = {
  desiredState: DesiredState;
  desiredGeneration: number;
  observedState: MachineState;
  observedGeneration: number;
  observedSequence: number;
};

/** The host's `unknown` (a state number this version does not know) says nothing. */
const EVENT_OF: Partial<Record<MachineState, MachineEvent>> = {
  starting: "report_starting",
  started: "report_started",
  stopping: "report_stopping",
  stopped: "report_stopped",
  failed: "report_failed",
  destroyed: "report_destroyed",
};

/** False for a report that is older than, or the same as, what is stored. */
export function isNews(row: Observed, report: Report, fromInventory: boolean): boolean {
  // At Hello the host repeats itself: its word replaces our "unknown".
  return fromInventory
    ? report.sequence >= row.observedSequence
    : report.sequence > row.observedSequence;
}

/** The observed state after this report. */
export function nextState(row: Observed, report: Report): MachineState {
  const event = EVENT_OF[report.state];
  if (event === undefined || row.observedState === "destroyed") return row.observedState;
  // Destroyed is final on a host whatever was asked meanwhile.
  const stale = report.generation < row.desiredGeneration && report.state !== "destroyed";
  if (stale && row.desiredState === "started" && !isLive(report.state)) return "starting";
  if (stale && row.desiredState === "stopped" && isLive(report.state)) return "stopping";
  return transition(row.observedState, event);
}

/**
 * The desired state after this report: a run that ended by itself is not wanted
 * any more (no restart policy), unless a newer request asks for another run.
 */
export function nextDesired(row: Observed, report: Report): DesiredState {
  const ended = report.state === "stopped" || report.state === "failed";
  const current = report.generation >= row.desiredGeneration;
  if (row.desiredState === "started" && current && (ended || report.state === "destroyed"))
    return "stopped";
  return row.desiredState;
}

/** Holds CPU and memory of its host, as far as its host has said. */
export function isLive(state: MachineState): boolean {
  return state === "starting" || state === "started" || state === "stopping";
}

/** Whether the placement should hold CPU and memory in this state. */
export function holdsCapacity(state: MachineState, before: boolean): boolean {
  if (isAtRest(state)) return false;
  // "unknown" and "destroying" keep what was: the run may well be alive.
  return isLive(state) ? true : before;
}

/** True when the machine can still come to one of the states by what is asked of it now. */
export function canReach(
  machine: { observedState: MachineState; desiredState: DesiredState; restartAt?: Date | null },
  wanted: ReadonlySet<MachineState>,
): boolean {
  const { observedState, desiredState } = machine;
  if (wanted.has(observedState)) return true;
  if (observedState === "destroyed") return false;
  if (desiredState === "destroyed") return wanted.has("destroyed") || wanted.has("destroying");
  // A restart is a stop with a run that is due after it.
  if (observedState === "failed" || observedState === "stopped")
    return desiredState === "started" || (machine.restartAt ?? null) !== null;
  return true;
}

export type Wanted = "start" | "stop" | "destroy" | null;

/**
 * What the reconciler has to ask of the host for a machine that has no open op,
 * whose host is connected.
 */
export function remedy(machine: Observed): Wanted {
  const { desiredState, observedState } = machine;
  if (observedState === "destroyed") return null;
  switch (desiredState) {
    case "destroyed":
      return "destroy";
    case "stopped":
      return isLive(observedState) ? "stop" : null;
    case "started":
      // At rest under the newest generation: the run ended, and stays ended.
      return isAtRest(observedState) && machine.observedGeneration < machine.desiredGeneration
        ? "start"
        : null;
    default: {
      const rest: never = desiredState;
      return rest;
    }
  }
}
