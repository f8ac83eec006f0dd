import { LvError } from "../../proto/errors.ts";
import { isAtRest } from "../../proto/states.ts";
import type { Db } from "../db/index.ts";
import { afterNow, lockMachine } from "../db/queries/machines.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { saveMachine, transact, type Deps, type Effects } from "./deps.ts";
import { restartNow } from "./ended.ts";
import { issueStop } from "./issue.ts";
import { checkLease } from "./lease.ts";
import { startMachine } from "./start-machine.ts";

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
  nonce?: string,
): Promise<MachineRow> {
  return transact(deps, async (tx, effects) => {
    const machine = await lockMachine(tx, id);
    if (machine === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    await checkLease(tx, machine, nonce);
    if (machine.desiredState === "destroyed")
      throw new LvError("STATE_CONFLICT", `Cannot stop "${machine.name}": it is being destroyed`);
    if (machine.restartAt !== null) await cancelRestart(tx, effects, machine);
    if (machine.observedState === "pending")
      return saveMachine(
        tx,
        effects,
        machine,
        { desiredState: "stopped", observedState: "stopped" },
        { type: "stop", source: "user" },
      );
    if (machine.hostId === null || isAtRest(machine.observedState))
      return (await lockMachine(tx, id)) ?? machine;
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

/** Stops the machine and begins its next run as soon as it has stopped. Throws as stopMachine. */
export async function restartMachine(
  deps: Deps,
  id: string,
  request: StopRequest,
  nonce?: string,
): Promise<MachineRow> {
  const machine = await stopMachine(deps, id, request, nonce);
  if (isAtRest(machine.observedState)) return startMachine(deps, id, nonce);
  return transact(deps, async (tx, effects) => {
    const now = await lockMachine(tx, id);
    if (now === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    if (now.desiredState !== "stopped") return now;
    const due = { restartAt: afterNow(0), restarts: 0 };
    const row = await saveMachine(tx, effects, machine, due, { type: "restart", source: "user" });
    return isAtRest(row.observedState) ? restartNow(tx, effects, row) : row;
  });
}

async function cancelRestart(tx: Db, effects: Effects, machine: MachineRow): Promise<void> {
  const change = { restartAt: null, desiredState: "stopped" } as const;
  await saveMachine(tx, effects, machine, change, { type: "stop", source: "user" });
}
