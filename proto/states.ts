/**
 * State names, once, for the database, the wire, REST and the docs.
 *
 * A machine's observed state moves only through `transition`; the table is the
 * documentation. `unknown` = the host's stream is down; the machine itself may
 * well be running.
 */
import { LvError } from "./errors.ts";
import { MachineState as Wire } from "./gen/leveret/v1/agent_pb.js";

export const MACHINE_STATES = [
  "created",
  "pending",
  "starting",
  "started",
  "stopping",
  "stopped",
  "failed",
  "destroying",
  "destroyed",
  "unknown",
] as const;
export type MachineState = (typeof MACHINE_STATES)[number];

export const DESIRED_STATES = ["started", "stopped", "destroyed"] as const;
export type DesiredState = (typeof DESIRED_STATES)[number];

/** "suspect": connected, but silent. "conflict": connected, but two agents with its key take turns; nothing is placed there. */
export const HOST_STATES = ["ready", "suspect", "conflict", "disconnected", "lost"] as const;
export type HostState = (typeof HOST_STATES)[number];

/** What can happen to a machine, seen from the control plane. */
export type MachineEvent =
  | "request_start"
  | "request_stop"
  | "request_destroy"
  | "report_starting"
  | "report_started"
  | "report_stopping"
  | "report_stopped"
  | "report_failed"
  | "report_destroyed"
  | "host_down";

type Table = Record<MachineState, Partial<Record<MachineEvent, MachineState>>>;

/** A report of the host is the truth, so every live state accepts every report. */
const REPORTS = {
  report_starting: "starting",
  report_started: "started",
  report_stopping: "stopping",
  report_stopped: "stopped",
  report_failed: "failed",
  report_destroyed: "destroyed",
} as const;

const TRANSITIONS: Table = {
  created: {
    ...REPORTS,
    request_start: "starting",
    request_stop: "stopped",
    request_destroy: "destroying",
    host_down: "unknown",
  },
  // No host has room.
  pending: {
    ...REPORTS,
    request_start: "starting",
    request_stop: "stopped",
    request_destroy: "destroying",
  },
  starting: {
    ...REPORTS,
    request_stop: "stopping",
    request_destroy: "destroying",
    host_down: "unknown",
  },
  started: {
    ...REPORTS,
    request_stop: "stopping",
    request_destroy: "destroying",
    host_down: "unknown",
  },
  stopping: {
    ...REPORTS,
    request_start: "starting",
    request_destroy: "destroying",
    host_down: "unknown",
  },
  stopped: {
    ...REPORTS,
    request_start: "starting",
    request_stop: "stopped",
    request_destroy: "destroying",
  },
  failed: {
    ...REPORTS,
    request_start: "starting",
    request_stop: "failed",
    request_destroy: "destroying",
  },
  destroying: {
    report_destroyed: "destroyed",
    request_destroy: "destroying",
    host_down: "destroying",
    report_starting: "destroying",
    report_started: "destroying",
    report_stopping: "destroying",
    report_stopped: "destroying",
    report_failed: "destroying",
  },
  destroyed: { report_destroyed: "destroyed", request_destroy: "destroyed" },
  unknown: {
    ...REPORTS,
    request_stop: "stopping",
    request_destroy: "destroying",
    request_start: "starting",
    host_down: "unknown",
  },
};

/** The next state. Throws STATE_CONFLICT when the table has no such move. */
export function transition(from: MachineState, event: MachineEvent): MachineState {
  const to = TRANSITIONS[from][event];
  if (to === undefined)
    throw new LvError("STATE_CONFLICT", `A machine that is ${from} does not accept ${event}`);
  return to;
}

/** States in which a machine holds no CPU and memory of its host. */
export function isAtRest(state: MachineState): boolean {
  return ["stopped", "failed", "destroyed", "created", "pending"].includes(state);
}

const FROM_WIRE: Record<Wire, MachineState> = {
  [Wire.UNSPECIFIED]: "unknown",
  [Wire.STARTING]: "starting",
  [Wire.STARTED]: "started",
  [Wire.STOPPING]: "stopping",
  [Wire.STOPPED]: "stopped",
  [Wire.FAILED]: "failed",
  [Wire.DESTROYED]: "destroyed",
};

/** Total: an unknown number from a newer agent reads as "unknown". */
export function machineStateFromWire(state: Wire): MachineState {
  return FROM_WIRE[state] ?? "unknown";
}
