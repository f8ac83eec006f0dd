import { LvError } from "../../proto/errors.ts";
import { MachineId } from "../../proto/ids.ts";
import type { MachineConfig } from "../../proto/rest.ts";
import { violatedConstraint, type Db } from "../db/index.ts";
import { claimKey } from "../db/queries/idempotency.ts";
import { findByName, getMachine, insertMachine } from "../db/queries/machines.ts";
import type { MachineRow } from "../db/schema/machines.ts";
import { addEvent, saveMachine, transact, type Deps, type Effects } from "./deps.ts";
import { insertStarted, type Draft } from "./issue.ts";
import { becomePending } from "./pending.ts";
import { needOf, reserveBest, survey } from "./place.ts";
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
  const { projectId, config } = request;
  const name = request.name ?? `m-${id.slice(4, 12)}`;
  const draft: Draft = {
    id,
    projectId,
    name,
    config,
    image: config.image,
    antiAffinity: config.placement.anti_affinity ?? null,
  };
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
      const need = needOf(config);
      const [hosts] = await Promise.all([
        survey(tx, draft),
        checkQuota(tx, projectId, { machines: 1, ...need }),
      ]);
      const placed = await reserveBest(tx, need, hosts);
      if ("hostId" in placed) return insertStarted(tx, effects, draft, { ...placed, ...need });
      return insertUnplaced(tx, effects, draft, placed.refusal, request.onNoCapacity ?? "fail");
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

/** No host has room: the machine's state says why. */
async function insertUnplaced(
  tx: Db,
  effects: Effects,
  draft: Draft,
  refusal: string,
  then: "pending" | "fail",
): Promise<MachineRow> {
  const machine = await insertMachine(tx, {
    ...draft,
    desiredState: "started",
    desiredGeneration: 0,
    observedState: "created",
  });
  await addEvent(tx, machine, { type: "create", source: "user" });
  if (then === "pending") return becomePending(tx, effects, machine, refusal);
  return saveMachine(
    tx,
    effects,
    machine,
    {
      desiredState: "stopped",
      observedState: "failed",
      statusReason: "NO_CAPACITY",
      statusMessage: refusal,
    },
    { type: "failed", source: "system", reason: "NO_CAPACITY", message: refusal },
  );
}
