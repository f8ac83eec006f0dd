/**
 * Images of hosts, as the control plane sees them: what the hosts say they have, and jobs that
 * change it. A job is a row and an op for one host; it goes on without whoever asked, and a host
 * that comes back gets what it has missed.
 *
 * Whose images: they lie on hosts and are shared by digest, so only fleet administrators remove
 * or pin them. A project may pull, and sees what it has pulled or loaded and what its machines
 * use. Who knows a digest may run it where it lies: a digest is as hard to guess as a token, and
 * only who could read the manifest knows it. A tag is always asked for at the registry, with the
 * project's own credentials.
 */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { ImageJobId, OpId } from "../../proto/ids.ts";
import { formatReference, parseReference, normalReference } from "../../proto/image-reference.ts";
import { ownsEpoch, listHosts } from "../db/queries/hosts.ts";
import { type HostImage, holdersOf, replaceHostImages } from "../db/queries/host-images.ts";
import { findOpenJob, getImageJob, insertImageJob } from "../db/queries/image-jobs.ts";
import { insertOp } from "../db/queries/ops.ts";
import type { HostRow } from "../db/schema/hosts.ts";
import type { ImageJobKind, ImageJobRow } from "../db/schema/image-jobs.ts";
import type { ImageCommand } from "../db/schema/ops.ts";
import type { Principal } from "../core/access.ts";
import { transact, type Deps } from "./deps.ts";
import { findHost } from "./find.ts";
import type { Origin } from "./report.ts";

const PLATFORM = "linux/amd64";

/** What the host's agent has told, unless a newer stream of it has been here. */
export async function storeImages(deps: Deps, origin: Origin, images: HostImage[]): Promise<void> {
  await transact(deps, async (tx) => {
    if (await ownsEpoch(tx, origin.hostId, origin.epoch))
      await replaceHostImages(tx, origin.hostId, images);
  });
}

const isConnected = ({ state }: HostRow): boolean => state === "ready" || state === "suspect";

/**
 * The host that is named, or all that take machines. Throws HOST_NOT_FOUND, HOST_UNAVAILABLE,
 * LIMIT_EXCEEDED.
 */
export async function targetHosts(deps: Deps, host: string | undefined): Promise<HostRow[]> {
  if (host !== undefined) {
    const row = await findHost(deps, host);
    if (isConnected(row)) return [row];
    throw new LvError("HOST_UNAVAILABLE", `The host "${row.hostname}" is ${row.state}`);
  }
  const rows = (await listHosts(deps.database.db)).filter(
    ({ state, cordoned }) => state === "ready" && !cordoned,
  );
  if (rows.length === 0) throw new LvError("HOST_UNAVAILABLE", "No host takes machines now");
  if (rows.length > LIMITS.imageJobHosts)
    throw new LvError(
      "LIMIT_EXCEEDED",
      `${rows.length} hosts at once are too many (${LIMITS.imageJobHosts}): name a host`,
    );
  return rows;
}

export type PullRequest = {
  image: string;
  host?: string | undefined;
  platform?: string | undefined;
};

/** One job per host; what the project is pulling there already is joined. */
export async function pullImage(
  deps: Deps,
  { projectId }: Principal,
  request: PullRequest,
): Promise<ImageJobRow[]> {
  const { platform = PLATFORM } = request;
  if (platform !== PLATFORM)
    throw new LvError("IMAGE_PLATFORM_MISSING", `Hosts run ${PLATFORM}, not "${platform}"`);
  const image = formatReference(parseReference(request.image));
  const hosts = await targetHosts(deps, request.host);
  const command = { kind: "pull_image", projectId, image } as const;
  return await issue(deps, hosts, { projectId, kind: "pull", image }, () => command);
}

export async function pruneImages(
  deps: Deps,
  { projectId }: Principal,
  { host, all }: { host?: string | undefined; all: boolean },
): Promise<ImageJobRow[]> {
  const hosts =
    host === undefined
      ? (await listHosts(deps.database.db)).filter(isConnected)
      : await targetHosts(deps, host);
  const command = { kind: "prune_images", all } as const;
  return await issue(deps, hosts, { projectId, kind: "prune", image: "" }, () => command);
}

/** Throws IMAGE_NOT_FOUND when no host that is meant has it. */
export async function pinImage(
  deps: Deps,
  { projectId }: Principal,
  { image, host, pinned }: { image: string; host?: string | undefined; pinned: boolean },
): Promise<ImageJobRow[]> {
  const holders = await findHolders(deps, image, host);
  const kind = pinned ? "pin" : "unpin";
  return await issue(deps, holders, { projectId, kind, image }, ({ digest }) => ({
    kind: "pin_image",
    digest,
    pinned,
  }));
}

/** Throws IMAGE_NOT_FOUND when no host that is meant has it. */
export async function removeImage(
  deps: Deps,
  { projectId }: Principal,
  { image, host }: { image: string; host?: string | undefined },
): Promise<ImageJobRow[]> {
  const holders = await findHolders(deps, image, host);
  return await issue(deps, holders, { projectId, kind: "remove", image }, ({ digest }) => ({
    kind: "remove_image",
    digest,
  }));
}

/** Of the project, or any for a fleet token. Throws NOT_FOUND. */
export async function findImageJob(
  deps: Deps,
  { projectId, fleet }: Principal,
  id: string,
): Promise<ImageJobRow> {
  const row = id.includes("\0") ? undefined : await getImageJob(deps.database.db, id);
  if (row === undefined || (!fleet && row.projectId !== projectId))
    throw new LvError("NOT_FOUND", `No image job "${id.slice(0, 80)}"`);
  return row;
}

type Holder = HostRow & { digest: string };

/** Connected hosts that have the image, by digest or by a name. */
async function findHolders(deps: Deps, image: string, host: string | undefined): Promise<Holder[]> {
  const { db } = deps.database;
  const names = [image, normalReference(image)].flatMap((name) => name ?? []);
  const holders = await holdersOf(db, names);
  const hosts = host === undefined ? await listHosts(db) : await targetHosts(deps, host);
  const found = hosts.flatMap((row) =>
    holders.flatMap(({ hostId, digest }) => (hostId === row.id ? [{ ...row, digest }] : [])),
  );
  if (found.length === 0)
    throw new LvError("IMAGE_NOT_FOUND", `No host has an image "${image.slice(0, 300)}"`);
  const connected = found.filter(isConnected);
  if (connected.length === 0)
    throw new LvError("HOST_UNAVAILABLE", `No host that has "${image.slice(0, 300)}" is connected`);
  return connected;
}

async function issue<T extends HostRow>(
  deps: Deps,
  hosts: T[],
  job: { projectId: string; kind: ImageJobKind; image: string },
  commandFor: (host: T) => ImageCommand,
): Promise<ImageJobRow[]> {
  return await transact(deps, async (tx, effects) => {
    const rows: ImageJobRow[] = [];
    for (const host of hosts) {
      const wanted = { ...job, hostId: host.id };
      const open = await findOpenJob(tx, wanted);
      if (open !== undefined && job.kind === "pull") {
        rows.push(open);
        continue;
      }
      const row = await insertImageJob(tx, { id: ImageJobId.create(), ...wanted });
      rows.push(row);
      await insertOp(tx, {
        id: OpId.create(),
        machineId: row.id,
        hostId: host.id,
        generation: 1,
        command: commandFor(host),
      });
      effects.hosts.add(host.id);
    }
    return rows;
  });
}
