/**
 * A machine's output as one sequence, though the host's link may drop while it is
 * read. Each piece has a sequence that only grows, so a new session begins after
 * the last piece that was handed on: nothing is lost and nothing comes twice.
 *
 *   look at the machine → open a session → pieces… → ended
 *     ↑                        │ link lost, or not on the host yet
 *     └── wait for a change ───┘          (follow only)
 */
import { LvError } from "../../proto/errors.ts";
import { isAtRest } from "../../proto/states.ts";
import { getMachine } from "../db/queries/machines.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import type { Deps } from "./deps.ts";

export type LogPiece = {
  sequence: number;
  timeMs: number;
  stream: "stdout" | "stderr" | "system";
  data: Uint8Array;
  incarnation: number;
};

/** The hub, as far as logs need it. */
export interface LogSource {
  /**
   * Ends when the host says that the session is complete. Throws HOST_UNAVAILABLE
   * or LINK_LOST when the host is not there (any more), else the host's own error.
   */
  openLogs(
    hostId: string,
    request: { machineId: string; after: number; follow: boolean },
    signal: AbortSignal,
  ): AsyncIterable<LogPiece>;
}

const RETRY_MS = 1_000;

export type LogRequest = { id: string; after: number; follow: boolean };

export async function* readLogs(
  deps: Deps,
  source: LogSource,
  request: LogRequest,
  signal: AbortSignal,
): AsyncGenerator<LogPiece> {
  let { after } = request;
  let incarnation = 0;
  for (;;) {
    const change = nextChange(deps, request.id, signal);
    try {
      const machine = await getMachine(deps.database.db, request.id);
      if (machine === undefined || machine.hostId === null) return;
      if (machine.observedState === "destroyed") return;
      try {
        const session = { machineId: machine.id, after, follow: request.follow };
        for await (const piece of source.openLogs(machine.hostId, session, signal)) {
          if (piece.sequence <= after) continue;
          after = piece.sequence;
          incarnation = piece.incarnation;
          yield piece;
        }
        if (!request.follow || (await runIsOver(deps, machine, incarnation))) return;
      } catch (error) {
        const known = LvError.from(error);
        if (!signal.aborted && hasNothing(known, machine, request.follow)) return;
        if (signal.aborted || !mayComeBack(known, request.follow)) throw error;
      }
      await change.wait(machine.hostId);
    } finally {
      change.stop();
    }
  }
}

/** The host ended the session; a start may have been asked for that it has not seen yet. */
async function runIsOver(deps: Deps, before: MachineRow, seen: number): Promise<boolean> {
  const now = await getMachine(deps.database.db, before.id);
  if (now === undefined) return true;
  // Another run is due, by policy or because it was asked for.
  if (now.restartAt !== null) return false;
  if (now.desiredState !== "started") return true;
  // The run that ended is the newest one, and only its report is still to come.
  if (seen >= now.incarnation) return true;
  return now.incarnation === before.incarnation && before.observedState !== "starting";
}

/** Not on its host, and not about to be: it has printed nothing. */
function hasNothing(error: LvError, machine: MachineRow, follow: boolean): boolean {
  return error.reason === "MACHINE_NOT_FOUND" && (!follow || isAtRest(machine.observedState));
}

function mayComeBack(error: LvError, follow: boolean): boolean {
  return follow && ["MACHINE_NOT_FOUND", "HOST_UNAVAILABLE", "LINK_LOST"].includes(error.reason);
}

/** Subscribes at once, so that what changes while a session runs is not missed. */
function nextChange(deps: Deps, machineId: string, signal: AbortSignal) {
  let fired: () => void = () => undefined;
  const changed = new Promise<void>((resolve) => (fired = resolve));
  const stops = [deps.changes.subscribe(machineId, () => fired())];
  const end = new AbortController();
  return {
    wait: async (hostId: string): Promise<void> => {
      stops.push(deps.changes.subscribe(hostId, () => fired()));
      const ended = AbortSignal.any([signal, end.signal]);
      await Promise.race([changed, deps.clock.sleep(RETRY_MS, ended)]);
    },
    stop: (): void => {
      end.abort();
      for (const stop of stops) stop();
    },
  };
}
