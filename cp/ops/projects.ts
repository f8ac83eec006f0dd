import { LvError } from "../../proto/errors.ts";
import { DEFAULT_PROJECT, ProjectId } from "../../proto/ids.ts";
import { violatedConstraint, type Db } from "../db/index.ts";
import {
  deleteProject,
  findProject,
  insertProject,
  lockProject,
  updateQuotas,
  usageOf,
  type QuotaChange,
  type Usage,
} from "../db/queries/projects.ts";
import { deleteRegistriesOfProject } from "../db/queries/registries.ts";
import { revokeTokensOfProject } from "../db/queries/tokens.ts";
import type { ProjectRow } from "../db/schema/projects.ts";
import type { Deps } from "./deps.ts";

/** Throws NAME_TAKEN. */
export async function createProject(
  deps: Deps,
  name: string,
  quotas: QuotaChange,
): Promise<ProjectRow> {
  try {
    return await insertProject(deps.database.db, { id: ProjectId.create(), name, ...quotas });
  } catch (error) {
    if (violatedConstraint(error) !== "projects_name") throw error;
    throw new LvError("NAME_TAKEN", `There is a project "${name}" already`, { cause: error });
  }
}

/** By id or name. Throws NOT_FOUND. */
export async function projectOf(deps: Pick<Deps, "database">, reference: string) {
  const row = reference.includes("\0") ? undefined : await findProject(deps.database.db, reference);
  if (row === undefined) throw new LvError("NOT_FOUND", `No project "${reference.slice(0, 80)}"`);
  return row;
}

export async function setQuotas(
  deps: Deps,
  reference: string,
  change: QuotaChange,
): Promise<ProjectRow> {
  const { id } = await projectOf(deps, reference);
  return (await updateQuotas(deps.database.db, id, change)) ?? projectOf(deps, reference);
}

/** Its tokens are revoked. Throws NOT_FOUND, STATE_CONFLICT while it has machines. */
export async function removeProject(deps: Deps, reference: string): Promise<ProjectRow> {
  const { id } = await projectOf(deps, reference);
  if (id === DEFAULT_PROJECT)
    throw new LvError("STATE_CONFLICT", "The default project cannot be removed");
  return deps.database.transaction(async (tx) => {
    const row = await lockProject(tx, id);
    if (row === undefined) throw new LvError("NOT_FOUND", `No project ${id}`);
    const { machines } = await usageOf(tx, id);
    if (machines > 0)
      throw new LvError(
        "STATE_CONFLICT",
        `"${row.name}" has ${machines} machines: remove them first`,
      );
    await revokeTokensOfProject(tx, id);
    await deleteRegistriesOfProject(tx, id);
    await deleteProject(tx, id);
    return row;
  });
}

/**
 * Checks that the project stays within its quotas with what is to be added. Before its
 * writes: those lock hosts, and every transaction locks its project first. Projects
 * without quotas take no lock, so that they do not queue. Throws QUOTA_EXCEEDED.
 */
export async function checkQuota(tx: Db, projectId: string, added: Usage): Promise<void> {
  const seen = await findProject(tx, projectId);
  if (seen === undefined) throw new LvError("NOT_FOUND", `No project ${projectId}`);
  if (!hasQuota(seen)) return;
  const project = await lockProject(tx, projectId);
  if (project === undefined) throw new LvError("NOT_FOUND", `No project ${projectId}`);
  const used = await usageOf(tx, projectId);
  const rows = [
    ["machines", project.quotaMachines, used.machines, added.machines],
    ["cpus", project.quotaCpus, used.cpus, added.cpus],
    ["memory_mb", project.quotaMemoryMib, used.memoryMib, added.memoryMib],
    ["disk_mb", project.quotaDiskMib, used.diskMib, added.diskMib],
  ] as const;
  for (const [what, limit, has, more] of rows)
    // Less than before is never refused.
    if (limit !== null && more > 0 && has + more > limit)
      throw new LvError(
        "QUOTA_EXCEEDED",
        `Project "${project.name}" may have ${limit} ${what}, has ${has} and asks for ${more} more`,
      );
}

function hasQuota(row: ProjectRow): boolean {
  return [row.quotaMachines, row.quotaCpus, row.quotaMemoryMib, row.quotaDiskMib].some(
    (quota) => quota !== null,
  );
}
