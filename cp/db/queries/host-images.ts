import { and, asc, eq, gte, inArray, isNotNull, ne, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { hostImageNames } from "../schema/host-image-names.ts";
import { hostImages, type HostImageRow } from "../schema/host-images.ts";
import { hosts } from "../schema/hosts.ts";
import { imageJobs } from "../schema/image-jobs.ts";
import { machines } from "../schema/machines.ts";

/** Rows in one statement: PostgreSQL takes 65,535 parameters. */
const BATCH = 1_000;

export type HostImage = Omit<HostImageRow, "hostId">;

/** Replaces what was known of the host's images. The caller's transaction has checked the epoch. */
export async function replaceHostImages(
  tx: Db,
  hostId: string,
  images: HostImage[],
): Promise<void> {
  await tx.delete(hostImages).where(eq(hostImages.hostId, hostId));
  await tx.delete(hostImageNames).where(eq(hostImageNames.hostId, hostId));
  const all = images.flatMap(({ digest, names: own }) => [digest, ...own]);
  const rows = [...new Set(all)].map((name) => ({ name, hostId }));
  for (let at = 0; at < images.length; at += BATCH)
    await tx
      .insert(hostImages)
      .values(images.slice(at, at + BATCH).map((image) => ({ ...image, hostId })));
  for (let at = 0; at < rows.length; at += BATCH)
    await tx.insert(hostImageNames).values(rows.slice(at, at + BATCH));
}

/** Some hosts that have an image of that name (normalised) or digest, from an id on. */
export async function hostsWithName(
  tx: Db,
  name: string,
  from: string,
  limit: number,
): Promise<string[]> {
  const rows = await tx
    .select({ hostId: hostImageNames.hostId })
    .from(hostImageNames)
    .where(and(eq(hostImageNames.name, name), gte(hostImageNames.hostId, from)))
    .orderBy(asc(hostImageNames.hostId))
    .limit(limit);
  return rows.map(({ hostId }) => hostId);
}

export type ListedImage = HostImageRow & { hostname: string };

/**
 * The images of all hosts. Of a project: those that its machines have, or that it has pulled or
 * loaded itself; null = all.
 */
export async function listImages(tx: Db, projectId: string | null): Promise<ListedImage[]> {
  const own =
    projectId === null
      ? undefined
      : sql`(exists ${tx
          .select({ one: sql`1` })
          .from(machines)
          .where(
            and(
              eq(machines.projectId, projectId),
              eq(machines.hostId, hostImages.hostId),
              eq(machines.imageDigest, hostImages.digest),
              ne(machines.observedState, "destroyed"),
            ),
          )} or exists ${tx
          .select({ one: sql`1` })
          .from(imageJobs)
          .where(
            and(
              eq(imageJobs.projectId, projectId),
              eq(imageJobs.kind, "pull"),
              eq(imageJobs.hostId, hostImages.hostId),
              eq(imageJobs.digest, hostImages.digest),
            ),
          )})`;
  const rows = await tx
    .select({ image: hostImages, hostname: hosts.hostname })
    .from(hostImages)
    .innerJoin(hosts, eq(hosts.id, hostImages.hostId))
    .where(own)
    .orderBy(asc(hostImages.digest), asc(hostImages.hostId));
  return rows.map(({ image, hostname }) => ({ ...image, hostname }));
}

/** Machines that are not destroyed, by "host digest"; of one project, or of all (null). */
export async function machinesByImage(
  tx: Db,
  projectId: string | null,
): Promise<Map<string, number>> {
  const rows = await tx
    .select({
      hostId: machines.hostId,
      digest: machines.imageDigest,
      count: sql<number>`count(*)::int`,
    })
    .from(machines)
    .where(
      and(
        isNotNull(machines.imageDigest),
        ne(machines.observedState, "destroyed"),
        projectId === null ? undefined : eq(machines.projectId, projectId),
      ),
    )
    .groupBy(machines.hostId, machines.imageDigest);
  return new Map(rows.map((row) => [`${row.hostId ?? ""} ${row.digest ?? ""}`, row.count]));
}

/** What the project itself calls images: of its machines as they were written, of its jobs. */
export async function namesOfProject(tx: Db, projectId: string): Promise<string[]> {
  const used = await tx
    .selectDistinct({ image: machines.image })
    .from(machines)
    .where(and(eq(machines.projectId, projectId), ne(machines.observedState, "destroyed")));
  const asked = await tx
    .selectDistinct({ image: imageJobs.image })
    .from(imageJobs)
    .where(eq(imageJobs.projectId, projectId));
  return [...used, ...asked].map(({ image }) => image);
}

/** Hosts that have one of these names or digests. */
export async function holdersOf(
  tx: Db,
  names: string[],
): Promise<{ hostId: string; digest: string; names: string[] }[]> {
  const holders = tx
    .select({ hostId: hostImageNames.hostId })
    .from(hostImageNames)
    .where(inArray(hostImageNames.name, names));
  const rows = await tx.select().from(hostImages).where(inArray(hostImages.hostId, holders));
  return rows.filter(({ digest, names: own }) =>
    [digest, ...own].some((name) => names.includes(name)),
  );
}
