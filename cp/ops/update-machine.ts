/** Changing a machine's config. It holds from the machine's next start on. */
import { LvError } from "../../proto/errors.ts";
import { MachineConfig } from "../../proto/rest.ts";
import { isAtRest } from "../../proto/states.ts";
import type { Db } from "../db/index.ts";
import { lockMachine } from "../db/queries/machines.ts";
import { getPlacement, resizePlacement, type Need } from "../db/queries/placements.ts";
import type { Usage } from "../db/queries/projects.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { checkLease } from "./lease.ts";
import { saveMachine, transact, type Deps } from "./deps.ts";
import { needOf } from "./place.ts";
import { checkQuota } from "./projects.ts";

export type Guarded = {
  /** If-Match; undefined = whatever version there is. */
  version?: number | undefined;
  nonce?: string | undefined;
};

/**
 * `change` makes the new config out of the present one, inside the transaction.
 * Throws MACHINE_NOT_FOUND, VERSION_MISMATCH, LEASE_HELD, STATE_CONFLICT,
 * QUOTA_EXCEEDED, and what `change` throws.
 */
export async function updateMachine(
  deps: Deps,
  id: string,
  guarded: Guarded,
  change: (config: MachineConfig) => MachineConfig,
): Promise<MachineRow> {
  return transact(deps, async (tx, effects) => {
    const machine = await lockMachine(tx, id);
    if (machine === undefined) throw new LvError("MACHINE_NOT_FOUND", `No machine ${id}`);
    await checkLease(tx, machine, guarded.nonce);
    if (guarded.version !== undefined && guarded.version !== machine.version)
      throw new LvError(
        "VERSION_MISMATCH",
        `"${machine.name}" is at version ${machine.version}, not ${guarded.version}`,
      );
    if (machine.desiredState === "destroyed")
      throw new LvError("STATE_CONFLICT", `Cannot change "${machine.name}": it is being destroyed`);
    const config = change(machine.config);
    await checkQuota(tx, machine.projectId, growth(machine, needOf(config)));
    await resize(tx, machine, config);
    return saveMachine(
      tx,
      effects,
      machine,
      {
        config,
        image: config.image,
        antiAffinity: config.placement.anti_affinity ?? null,
        version: machine.version + 1,
      },
      { type: "update", source: "user" },
    );
  });
}

/** What counts more than before: CPU and memory do while it is wanted started. */
function growth({ config, desiredState }: MachineRow, after: Need): Usage {
  const before = needOf(config);
  const counts = desiredState === "started";
  return {
    machines: 0,
    cpus: counts ? after.cpus - before.cpus : 0,
    memoryMib: counts ? after.memoryMib - before.memoryMib : 0,
    diskMib: after.diskMib - before.diskMib,
  };
}

/** A run keeps what it was given; a disk keeps its size for as long as it exists. */
async function resize(tx: Db, machine: MachineRow, config: MachineConfig): Promise<void> {
  const before = needOf(machine.config);
  const after = needOf(config);
  const compute = before.cpus !== after.cpus || before.memoryMib !== after.memoryMib;
  if (compute && (!isAtRest(machine.observedState) || machine.desiredState === "started"))
    throw new LvError(
      "STATE_CONFLICT",
      `Cannot change cpus or memory_mb of "${machine.name}" while it is ${machine.observedState}: stop it first`,
    );
  if ((await getPlacement(tx, machine.id)) === undefined) return;
  if (before.diskMib !== after.diskMib)
    throw new LvError(
      "STATE_CONFLICT",
      `Cannot change disk_mb of "${machine.name}": its disk exists already`,
    );
  if (compute) await resizePlacement(tx, machine.id, after);
}

/** RFC 7396: objects merge, null removes, everything else replaces. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  const result: Record<string, unknown> = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else
      Object.defineProperty(result, key, {
        value: mergePatch(result[key], value),
        enumerable: true,
        configurable: true,
        writable: true,
      });
  }
  return result;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
