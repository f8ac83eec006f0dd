import { and, asc, eq, inArray, lt, or, sql } from "drizzle-orm";
import type { Db } from "../index.ts";
import { imageJobs, type ImageJobKind, type ImageJobRow } from "../schema/image-jobs.ts";
import { ops } from "../schema/ops.ts";

export type NewImageJob = Pick<ImageJobRow, "id" | "projectId" | "hostId" | "kind" | "image">;

export async function insertImageJob(tx: Db, job: NewImageJob): Promise<ImageJobRow> {
  const [row] = await tx.insert(imageJobs).values(job).returning();
  if (row === undefined) throw new Error("insert returned no row");
  return row;
}

export async function getImageJob(tx: Db, id: string): Promise<ImageJobRow | undefined> {
  const [row] = await tx.select().from(imageJobs).where(eq(imageJobs.id, id));
  return row;
}

/** One of the project that is under way: who asks again joins it. */
export async function findOpenJob(
  tx: Db,
  of: { projectId: string; hostId: string; kind: ImageJobKind; image: string },
): Promise<ImageJobRow | undefined> {
  const [row] = await tx
    .select()
    .from(imageJobs)
    .where(
      and(
        eq(imageJobs.hostId, of.hostId),
        eq(imageJobs.state, "pending"),
        eq(imageJobs.projectId, of.projectId),
        eq(imageJobs.kind, of.kind),
        eq(imageJobs.image, of.image),
      ),
    )
    .orderBy(asc(imageJobs.createdAt))
    .limit(1);
  return row;
}

export type JobOutcome = Pick<
  ImageJobRow,
  "digest" | "bytes" | "removed" | "errorReason" | "errorMessage"
>;

/** Of a host's own jobs only; a repeated Result changes nothing. */
export async function finishImageJob(
  tx: Db,
  id: string,
  hostId: string,
  outcome: JobOutcome,
): Promise<void> {
  await tx
    .update(imageJobs)
    .set({
      ...outcome,
      state: outcome.errorReason === null ? "done" : "failed",
      finishedAt: sql`now()`,
    })
    .where(and(eq(imageJobs.id, id), eq(imageJobs.hostId, hostId), eq(imageJobs.state, "pending")));
}

/** A job that is over when it is written down: a load. */
export async function insertFinishedJob(
  tx: Db,
  job: NewImageJob & Pick<ImageJobRow, "digest" | "bytes">,
): Promise<void> {
  await tx.insert(imageJobs).values({ ...job, state: "done", finishedAt: sql`now()` });
}

/**
 * At Hello: ops that the host has journalled and that wait there for something only we have (a
 * password), or whose journal may be another one by now. The agent knows them by their ids.
 */
export async function reopenImageOps(tx: Db, hostId: string): Promise<void> {
  const jobs = tx
    .select({ id: imageJobs.id })
    .from(imageJobs)
    .where(and(eq(imageJobs.hostId, hostId), eq(imageJobs.state, "pending")));
  await tx
    .update(ops)
    .set({ state: "pending" })
    .where(
      and(
        eq(ops.hostId, hostId),
        eq(ops.state, "acked"),
        or(eq(ops.withLogin, true), inArray(ops.machineId, jobs)),
      ),
    );
}

/** Jobs that ended long ago, or whose host never came back. */
export async function pruneImageJobs(tx: Db, olderThanS: number): Promise<void> {
  await tx
    .delete(imageJobs)
    .where(lt(imageJobs.createdAt, sql`now() - make_interval(secs => ${olderThanS})`));
}
