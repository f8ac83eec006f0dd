/** How a VMM's words become the machine's status. */
import { MachineState } from "../../../proto/gen/leveret/v1/agent_pb.js";
import type { VmmStatus } from "../../../proto/vmm.ts";
import type { StatusPatch } from "./types.ts";

const MESSAGE_MAX_LENGTH = 2_048;

/** At rest: no process, no CPU, no memory. */
export function isResting(state: MachineState): boolean {
  return (
    state === MachineState.STOPPED ||
    state === MachineState.FAILED ||
    state === MachineState.DESTROYED ||
    state === MachineState.UNSPECIFIED
  );
}

export function oneLine(message: string): string {
  return message.replaceAll(/\s+/g, " ").trim().slice(0, MESSAGE_MAX_LENGTH);
}

function stateOf(status: VmmStatus): MachineState {
  switch (status.phase) {
    case "waiting":
    case "booting":
      return MachineState.STARTING;
    case "running":
    // The control plane has no word for it, and nothing of the machine is given back.
    case "paused":
      return MachineState.STARTED;
    case "stopping":
      return MachineState.STOPPING;
    case "ended":
      return status.reason === undefined ? MachineState.STOPPED : MachineState.FAILED;
    default: {
      const rest: never = status.phase;
      return rest;
    }
  }
}

const unsigned = (value: number | undefined): bigint => BigInt(Math.max(0, Math.trunc(value ?? 0)));

/** nowMs stands in for an end that nobody wrote down. */
export function patchFromRun(status: VmmStatus, nowMs: number): StatusPatch {
  const state = stateOf(status);
  return {
    state,
    incarnation: BigInt(status.incarnation),
    reason: status.reason ?? "",
    message: oneLine(status.message ?? ""),
    exited: status.exitCode !== undefined,
    exitCode: status.exitCode ?? 0,
    exitSignal: status.exitSignal ?? 0,
    bootUs: unsigned(status.bootUs),
    startedAtMs: unsigned(status.startedAtMs),
    stoppedAtMs: status.phase === "ended" ? unsigned(status.endedAtMs ?? nowMs) : 0n,
  };
}
