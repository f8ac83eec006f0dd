/** A run has ended by itself: another one, the machine's removal, or rest. */
import { isAtRest } from "../../proto/states.ts";
import { nextRestart } from "../core/restart.ts";
import type { Db } from "../db/index.ts";
import { afterNow, findRestartsDue, lockMachine } from "../db/queries/machines.ts";
import { getHost } from "../db/queries/hosts.ts";
import { reserveAgain } from "../db/queries/placements.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { saveMachine, transact, type Deps, type Effects } from "./deps.ts";
import { moveAway } from "./pending.ts";
import { issueDestroy, issueStart } from "./issue.ts";

const BATCH = 200;

/**
 * `machine` is the row as the report has left it, `before` as it was. The row is
 * locked, and CPU and memory are given back already.
 */
export async function afterEnd(
  tx: Db,
  effects: Effects,
  before: MachineRow,
  machine: MachineRow,
): Promise<MachineRow> {
  if (!isAtRest(machine.observedState) || machine.desiredState === "destroyed") return machine;
  // Due after a stop that was asked for; one by policy waits for its time.
  if (machine.restartAt !== null)
    return machine.desiredState === "stopped" ? restartNow(tx, effects, machine) : machine;
  const byItself = before.desiredState === "started" && machine.desiredState === "stopped";
  if (!byItself) return machine;
  const { startedAt, stoppedAt, exitCode } = machine;
  const restart = nextRestart(machine.config.restart, machine.restarts, {
    exitCode,
    failed: machine.observedState === "failed",
    ranMs:
      startedAt === null || stoppedAt === null ? null : stoppedAt.getTime() - startedAt.getTime(),
  });
  if (restart !== null) {
    const { afterMs, restarts } = restart;
    const row = await saveMachine(
      tx,
      effects,
      machine,
      { desiredState: "started", restarts, restartAt: afterNow(afterMs) },
      {
        type: "restart",
        source: "system",
        message: `restart ${restarts} by policy, due in ${afterMs / 1000} s`,
      },
    );
    return afterMs === 0 ? restartNow(tx, effects, row) : row;
  }
  if (machine.config.auto_destroy === true && machine.hostId !== null)
    return issueDestroy(tx, effects, machine, machine.hostId, {
      type: "destroy",
      source: "system",
      message: "auto_destroy",
    });
  return machine;
}

/** Without room it stays due: the next pass tries again. */
export async function restartNow(
  tx: Db,
  effects: Effects,
  machine: MachineRow,
): Promise<MachineRow> {
  const { hostId } = machine;
  if (hostId === null) return machine;
  if (!(await reserveAgain(tx, machine.id))) {
    const host = await getHost(tx, hostId);
    return host?.drainMode === "move" ? moveAway(tx, effects, machine, hostId) : machine;
  }
  return issueStart(tx, effects, machine, hostId, { type: "start", source: "system" });
}

/** Runs that are due by the database's clock. */
export async function restartDue(deps: Deps): Promise<void> {
  for (const { id } of await findRestartsDue(deps.database.db, BATCH))
    await transact(deps, async (tx, effects) => {
      const machine = await lockMachine(tx, id);
      if (machine === undefined || machine.restartAt === null) return;
      if (machine.desiredState === "destroyed" || !isAtRest(machine.observedState)) return;
      await restartNow(tx, effects, machine);
    });
}
