/**
 * Waits for jobs on images and shows how far they are. The jobs do not need us: a command that
 * is cut leaves them going, and the same command finds them again.
 */
import { systemClock } from "../lib/clock.ts";
import { ImageJob } from "../proto/rest-images.ts";
import type { Client } from "./client.ts";
import { err } from "./output.ts";
import { ImageProgressView } from "./progress.ts";

const POLL_MS = 250;

/** All of them as they ended; each failure is told. */
export async function followJobs(client: Client, begun: ImageJob[]): Promise<ImageJob[]> {
  const view = new ImageProgressView();
  const jobs = new Map(begun.map((job) => [job.id, job]));
  const many = begun.length > 1;
  try {
    for (;;) {
      const open = [...jobs.values()].filter(({ state }) => state === "pending");
      const [first] = open;
      if (first === undefined) break;
      await view.show(
        first.image,
        first.progress,
        many ? `${first.host_name} (${jobs.size - open.length} of ${jobs.size} done)` : "",
      );
      await systemClock.sleep(POLL_MS);
      for (const { id } of open)
        jobs.set(id, await client.call("GET", `/v1/images/jobs/${id}`, ImageJob));
    }
  } finally {
    await view.end();
  }
  const ended = [...jobs.values()];
  for (const job of ended)
    if (job.state === "failed")
      await err(
        `lev: ${job.error_reason ?? "INTERNAL"}: ${job.error_message ?? ""}${many ? ` (${job.host_name})` : ""}\n`,
      );
  return ended;
}

/** The exit code of a command: 1 when any of them failed. */
export function exitCode(jobs: ImageJob[]): number {
  return jobs.some(({ state }) => state === "failed") ? 1 : 0;
}
