import { and, asc, eq, inArray, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { registries, type RegistryRow } from "../schema/registries.ts";

export async function putRegistry(
  tx: Db,
  row: Omit<RegistryRow, "updatedAt">,
): Promise<RegistryRow> {
  const { username, sealed, keyId } = row;
  const [stored] = await tx
    .insert(registries)
    .values(row)
    .onConflictDoUpdate({
      target: [registries.projectId, registries.registry],
      set: { username, sealed, keyId, updatedAt: sql`now()` },
    })
    .returning();
  if (stored === undefined) throw new Error("insert returned no row");
  return stored;
}

export function registriesOf(tx: Db, projectIds: string[]): Promise<RegistryRow[]> {
  return tx.select().from(registries).where(inArray(registries.projectId, projectIds));
}

export function listRegistries(tx: Db, projectId: string): Promise<RegistryRow[]> {
  return tx
    .select()
    .from(registries)
    .where(eq(registries.projectId, projectId))
    .orderBy(asc(registries.registry));
}

export async function deleteRegistry(
  tx: Db,
  projectId: string,
  registry: string,
): Promise<RegistryRow | undefined> {
  const [row] = await tx
    .delete(registries)
    .where(and(eq(registries.projectId, projectId), eq(registries.registry, registry)))
    .returning();
  return row;
}

export async function deleteRegistriesOfProject(tx: Db, projectId: string): Promise<void> {
  await tx.delete(registries).where(eq(registries.projectId, projectId));
}
