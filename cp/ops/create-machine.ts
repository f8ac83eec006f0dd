import { LvError } from "../../proto/errors.ts";
import { MachineId } from "../../proto/ids.ts";
import type { MachineConfig } from "../../proto/rest.ts";
import { violatedConstraint } from "../db/index.ts";
import { claimKey } from "../db/queries/idempotency.ts";
import { findByName, getMachine, insertMachine } from "../db/queries/machines.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { addEvent, saveMachine, transact, type Deps } from "./deps.ts";
import { issueStart } from "./issue.ts";
import { becomePending } from "./pending.ts";
import { needOf, place } from "./place.ts";
import { checkQuota } from "./projects.ts";

export type CreateRequest = {
  /** Default: fail. */
  onNoCapacity?: "pending" | "fail";
  projectId: string;
  name: string | undefined;
  config: MachineConfig;
  idempotency: { key: string; requestHash: string } | undefined;
};

/**
 * Machine, placement, op and event in one transaction. Without room the machine
 * is kept, `pending` or `failed` with NO_CAPACITY, so that its state says why. Repeated with
 * the same idempotency key it returns the machine of the first call.
 * Throws NAME_TAKEN, IDEMPOTENCY_MISMATCH, QUOTA_EXCEEDED.
 */
export async function createMachine(deps: Deps, request: CreateRequest): Promise<MachineRow> {
  const id = MachineId.create();
  const { projectId } = request;
  const name = request.name ?? `m-${id.slice(4, 12)}`;
  try {
    return await transact(deps, async (tx, effects) => {
      if (request.idempotency !== undefined) {
        const earlier = await claimKey(tx, { ...request.idempotency, projectId, machineId: id });
        if (earlier !== null) {
          if (earlier.requestHash !== request.idempotency.requestHash)
            throw new LvError(
              "IDEMPOTENCY_MISMATCH",
              `Idempotency-Key "${request.idempotency.key}" was used for another request`,
            );
          const machine = await getMachine(tx, earlier.machineId);
          if (machine !== undefined) return machine;
        }
      }
      const machine = await insertMachine(tx, {
        id,
        projectId,
        name,
        config: request.config,
        image: request.config.image,
        antiAffinity: request.config.placement.anti_affinity ?? null,
        desiredState: "started",
        desiredGeneration: 0,
        observedState: "created",
      });
      await checkQuota(tx, projectId, needOf(request.config));
      await addEvent(tx, machine, { type: "create", source: "user" });
      const placed = await place(tx, machine);
      if ("refusal" in placed && request.onNoCapacity === "pending")
        return becomePending(tx, effects, machine, placed.refusal);
      if ("refusal" in placed)
        return saveMachine(
          tx,
          effects,
          id,
          {
            desiredState: "stopped",
            observedState: "failed",
            statusReason: "NO_CAPACITY",
            statusMessage: placed.refusal,
          },
          { type: "failed", source: "system", reason: "NO_CAPACITY", message: placed.refusal },
        );
      return issueStart(tx, effects, machine, placed.hostId, { type: "start", source: "user" });
    });
  } catch (error) {
    if (violatedConstraint(error) !== "machines_name") throw error;
    const holder = await findByName(deps.database.db, projectId, name);
    throw new LvError(
      "NAME_TAKEN",
      `The name "${name}" is taken${holder === undefined ? "" : ` by ${holder.id}`}: choose another or remove that machine`,
      { cause: error },
    );
  }
}
