import { LvError } from "../../proto/errors.ts";
import { isAtRest } from "../../proto/states.ts";
import { lockMachine } from "../db/queries/machines.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { transact, type Deps } from "./deps.ts";
import { issueStop } from "./issue.ts";

export type StopRequest = { signal: number | undefined; timeoutSeconds: number | undefined };

/**
 * Asks the machine to end. At rest it is returned as it is. Asked again, the new
 * signal and timeout count: a shorter one hurries a stop that takes too long.
 * Throws MACHINE_NOT_FOUND, STATE_CONFLICT.
 */
export async function stopMachine(
  deps: Deps,
  id: string,
  request: StopRequest,
): Promise<MachineRow> {
  return transact(deps, async (tx, effects) => {
    const machine = await lockMachine(tx, id);
    if (machine === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    if (machine.desiredState === "destroyed")
      throw new LvError("STATE_CONFLICT", `Cannot stop "${machine.name}": it is being destroyed`);
    if (machine.hostId === null || isAtRest(machine.observedState)) return machine;
    const config = machine.config.stop_config;
    return issueStop(
      tx,
      effects,
      machine,
      machine.hostId,
      {
        signal: request.signal ?? config.signal,
        timeoutMs: (request.timeoutSeconds ?? config.timeout) * 1000,
      },
      { type: "stop", source: "user" },
    );
  });
}
