import { and, asc, eq, ne, or, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { machines } from "../schema/machines.ts";
import { projects, type ProjectRow } from "../schema/projects.ts";

export type QuotaChange = Partial<
  Pick<ProjectRow, "quotaMachines" | "quotaCpus" | "quotaMemoryMib" | "quotaDiskMib">
>;

export async function insertProject(
  tx: Db,
  project: { id: string; name: string } & QuotaChange,
): Promise<ProjectRow> {
  const [row] = await tx.insert(projects).values(project).returning();
  if (row === undefined) throw new Error("insert returned no row");
  return row;
}

/** By id or name. */
export async function findProject(tx: Db, reference: string): Promise<ProjectRow | undefined> {
  const [row] = await tx
    .select()
    .from(projects)
    .where(or(eq(projects.id, reference), eq(projects.name, reference)));
  return row;
}

export function listProjects(tx: Db): Promise<ProjectRow[]> {
  return tx.select().from(projects).orderBy(asc(projects.createdAt), asc(projects.id));
}

/** Locks the row until the transaction ends. */
export async function lockProject(tx: Db, id: string): Promise<ProjectRow | undefined> {
  const [row] = await tx.select().from(projects).where(eq(projects.id, id)).for("update");
  return row;
}

export async function updateQuotas(
  tx: Db,
  id: string,
  change: QuotaChange,
): Promise<ProjectRow | undefined> {
  if (Object.keys(change).length === 0) return findProject(tx, id);
  const [row] = await tx.update(projects).set(change).where(eq(projects.id, id)).returning();
  return row;
}

export async function deleteProject(tx: Db, id: string): Promise<void> {
  await tx.delete(projects).where(eq(projects.id, id));
}

export type Usage = { machines: number; cpus: number; memoryMib: number; diskMib: number };

/** CPU and memory count while a machine is wanted started, disk as long as it exists. */
export async function usageOf(tx: Db, projectId: string): Promise<Usage> {
  const guest = (key: string) => sql`(${machines.config}->'guest'->>${key})::bigint`;
  const started = sql`${machines.desiredState} = 'started'`;
  const [row] = await tx
    .select({
      machines: sql<string>`count(*)`,
      cpus: sql<string>`coalesce(sum(${guest("cpus")}) filter (where ${started}), 0)`,
      memoryMib: sql<string>`coalesce(sum(${guest("memory_mb")}) filter (where ${started}), 0)`,
      diskMib: sql<string>`coalesce(sum(${guest("disk_mb")}), 0)`,
    })
    .from(machines)
    .where(and(eq(machines.projectId, projectId), ne(machines.observedState, "destroyed")));
  if (row === undefined) throw new Error("an aggregate returned no row");
  return {
    machines: Number(row.machines),
    cpus: Number(row.cpus),
    memoryMib: Number(row.memoryMib),
    diskMib: Number(row.diskMib),
  };
}
