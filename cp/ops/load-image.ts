/**
 * An archive to one or several hosts at once, chunk by chunk: the slowest host sets the pace, and
 * nothing is kept here. A host that fails drops out and says why; the others go on.
 */
import { LvError } from "../../proto/errors.ts";
import { ImageJobId } from "../../proto/ids.ts";
import type { Principal } from "../core/access.ts";
import { insertFinishedJob } from "../db/queries/image-jobs.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import type { Deps } from "./deps.ts";

export type Loaded = { reference: string; digest: string; sizeBytes: number };

/** One host's end of it. */
export interface Upload {
  /** Resolves when there is room for more. Throws what ended it. */
  write(chunk: Uint8Array): Promise<void>;
  /** All is written: resolves when the image is built. */
  finish(): Promise<Loaded>;
  /** Safe at any time, and twice. */
  close(): void;
}

export interface Uploads {
  /** Throws HOST_UNAVAILABLE, LINK_LOST. */
  open(hostId: string, tag: string, signal: AbortSignal): Promise<Upload>;
}

export type LoadOutcome = { host: HostRow; loaded: Loaded | null; error: LvError | null };

type Lane = LoadOutcome & { upload: Upload | null };

/** Throws when the body breaks off; what hosts fail with is in their outcome. */
export async function loadImage(
  deps: Deps,
  uploads: Uploads,
  { projectId }: Principal,
  request: { hosts: HostRow[]; tag: string; body: AsyncIterable<Uint8Array> },
  signal: AbortSignal,
): Promise<LoadOutcome[]> {
  const lanes = await Promise.all(
    request.hosts.map((host) => openLane(uploads, host, request.tag, signal)),
  );
  try {
    for await (const chunk of request.body) {
      const open = lanes.filter(({ error }) => error === null);
      if (open.length === 0) break;
      await Promise.all(open.map((lane) => attempt(lane, (upload) => upload.write(chunk))));
    }
    await Promise.all(
      lanes.map((lane) =>
        attempt(lane, async (upload) => void (lane.loaded = await upload.finish())),
      ),
    );
  } finally {
    for (const { upload } of lanes) upload?.close();
  }
  for (const { host, loaded } of lanes)
    if (loaded !== null)
      // So that its project finds it in the list.
      await insertFinishedJob(deps.database.db, {
        id: ImageJobId.create(),
        projectId,
        hostId: host.id,
        kind: "pull",
        image: loaded.reference,
        digest: loaded.digest,
        bytes: loaded.sizeBytes,
      });
  return lanes.map(({ host, loaded, error }) => ({ host, loaded, error }));
}

async function openLane(
  uploads: Uploads,
  host: HostRow,
  tag: string,
  signal: AbortSignal,
): Promise<Lane> {
  try {
    const upload = await uploads.open(host.id, tag, signal);
    return { host, upload, loaded: null, error: null };
  } catch (error) {
    return { host, upload: null, loaded: null, error: LvError.from(error) };
  }
}

async function attempt(lane: Lane, work: (upload: Upload) => Promise<void>): Promise<void> {
  if (lane.upload === null || lane.error !== null) return;
  try {
    await work(lane.upload);
  } catch (error) {
    lane.error = LvError.from(error);
    lane.upload.close();
  }
}
