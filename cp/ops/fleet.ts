/**
 * A host's life, by the database's clock:
 *
 *   ready ⇄ suspect (a stream, but no heartbeat) → disconnected → lost
 *
 * Beside it, and independent of it: cordoned (an administrator keeps new runs away),
 * draining (cordoned, and its machines move or stop before a deadline), quarantined
 * (starts kept failing there; it ends by itself).
 */
import { LvError, type Reason } from "../../proto/errors.ts";
import type { Db } from "../db/index.ts";
import {
  drainingHosts,
  getHost,
  noteStartFailure,
  noteStartSuccess,
  setCordon,
  sweepLiveness,
  type Drain,
} from "../db/queries/hosts.ts";
import { lockMachine, runningOn } from "../db/queries/machines.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import { afterNow } from "../db/queries/machines.ts";
import { saveMachine, transact, type Deps } from "./deps.ts";
import { findHost } from "./find.ts";
import { issueStop } from "./issue.ts";

/** Three heartbeats. */
export const SUSPECT_AFTER_S = 15;
export const LOST_AFTER_S = 3_600;
const BATCH = 100;

export async function sweepFleet(deps: Deps, lostAfterS: number): Promise<void> {
  const lost = await sweepLiveness(deps.database.db, SUSPECT_AFTER_S, lostAfterS);
  for (const id of lost) {
    deps.log.warn({ hostId: id }, "host is lost");
    deps.changes.publish({ kind: "host", id });
  }
}

/** Idempotent. Throws HOST_NOT_FOUND, NAME_AMBIGUOUS. */
export async function cordon(
  deps: Deps,
  reference: string,
  change: { cordoned: boolean; drain: Drain | null },
): Promise<HostRow> {
  const { id } = await findHost(deps, reference);
  const row = await setCordon(deps.database.db, id, change.cordoned, change.drain);
  if (row === undefined) throw new LvError("HOST_NOT_FOUND", `No host ${id}`);
  return row;
}

/** Asks the machines of draining hosts to stop; those that move begin anew once they have. */
export async function drainHosts(deps: Deps): Promise<void> {
  for (const host of await drainingHosts(deps.database.db))
    for (const { id } of await runningOn(deps.database.db, host.id, BATCH))
      await transact(deps, async (tx, effects) => {
        const machine = await lockMachine(tx, id);
        if (machine?.hostId !== host.id || machine.desiredState !== "started") return;
        if (machine.observedState !== "started" && machine.observedState !== "starting") return;
        // Looked at again: an uncordon may have come in between.
        const now = await getHost(tx, host.id);
        if (now === undefined || now.drainMode === null) return;
        const { signal, timeout } = machine.config.stop_config;
        const leftMs = Math.max(0, (now.drainDeadline?.getTime() ?? 0) - deps.clock.now());
        const stop = { signal, timeoutMs: Math.min(timeout * 1000, leftMs) };
        await issueStop(tx, effects, machine, host.id, stop, { type: "drain", source: "system" });
        if (now.drainMode === "move")
          await saveMachine(tx, effects, machine, { restartAt: afterNow(0) });
      });
}

/** The host's own fault, not the image's or the request's. */
const HOST_FAULTS: readonly Reason[] = ["KVM_MISSING", "TOOL_MISSING", "VMM_FAULT", "DISK_FULL"];

/** A start has ended: a host that keeps failing them is left alone for a while. */
export async function judgeStart(tx: Db, hostId: string, reason: string | null): Promise<void> {
  if (reason === null) await noteStartSuccess(tx, hostId);
  else if (HOST_FAULTS.some((fault) => fault === reason)) await noteStartFailure(tx, hostId);
}
