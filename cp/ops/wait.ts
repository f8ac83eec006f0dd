import { LvError } from "../../proto/errors.ts";
import type { MachineState } from "../../proto/states.ts";
import { canReach } from "../core/machine.ts";
import { getMachine } from "../db/queries/machines.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import type { Deps } from "./deps.ts";

/**
 * Resolves when the machine is in one of the states, or has been since the call:
 * a run that ends at once is not missed. Throws STATE_CONFLICT as soon as it can
 * no longer get there, WAIT_TIMEOUT, MACHINE_NOT_FOUND, CANCELLED.
 */
export async function waitForState(
  deps: Deps,
  id: string,
  wanted: ReadonlySet<MachineState>,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<MachineRow> {
  const deadline = deps.clock.now() + timeoutMs;
  let seen = false;
  let wake: () => void = () => undefined;
  const unsubscribe = deps.changes.subscribe(id, (change) => {
    if (change.kind === "machine" && wanted.has(change.state)) seen = true;
    wake();
  });
  const stop = new AbortController();
  const ended = AbortSignal.any([signal, stop.signal]);
  try {
    for (;;) {
      const changed = new Promise<void>((resolve) => (wake = resolve));
      const row = await getMachine(deps.database.db, id);
      if (row === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
      if (seen || wanted.has(row.observedState)) return row;
      if (!canReach(row, wanted)) throw unreachable(row, wanted);
      const left = deadline - deps.clock.now();
      if (left <= 0)
        throw new LvError(
          "WAIT_TIMEOUT",
          `"${row.name}" is ${row.observedState} after ${timeoutMs / 1000} s; waited for ${[...wanted].join(" or ")}`,
        );
      // Another process may have made the change: look again now and then.
      await Promise.race([changed, deps.clock.sleep(Math.min(left, 2_000), ended)]);
    }
  } finally {
    stop.abort();
    unsubscribe();
  }
}

function unreachable(row: MachineRow, wanted: ReadonlySet<MachineState>): LvError {
  const why = row.statusMessage === null ? "" : `: ${row.statusMessage}`;
  return new LvError(
    "STATE_CONFLICT",
    `"${row.name}" is ${row.observedState} and will not become ${[...wanted].join(" or ")}${why}`,
  );
}
