import {
  Image,
  ImageJob,
  PinImageRequest,
  PruneImagesRequest,
  PullImageRequest,
} from "../../../proto/rest-images.ts";
import { normalReference } from "../../../proto/image-reference.ts";
import {
  listImages,
  machinesByImage,
  namesOfProject,
  type ListedImage,
} from "../../db/queries/host-images.ts";
import { listHosts } from "../../db/queries/hosts.ts";
import type { ImageJobRow } from "../../db/schema/image-jobs.ts";
import { findImageJob, pinImage, pruneImages, pullImage, removeImage } from "../../ops/images.ts";
import { guard, PROJECT_HEADER } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";

const jobs = json(z.array(ImageJob), "One job for each host");
const body = <T extends z.ZodType>(schema: T) => ({
  required: true,
  content: { "application/json": { schema } },
});

const list = createRoute({
  method: "get",
  path: "/v1/images",
  summary: "The images that hosts have",
  description:
    "Of a project: those that its machines use and those that it has pulled or loaded. A fleet token without `leveret-project` sees them all.",
  responses: { 200: json(z.array(Image), "Images, by digest"), default: failure },
  ...guard("read"),
});

const pull = createRoute({
  method: "post",
  path: "/v1/images/pull",
  summary: "Pull an image ahead of its first machine",
  description:
    "Answers at once; the pull goes on by itself. Asked again while it is under way, the same job is given.",
  request: { body: body(PullImageRequest) },
  responses: { 202: jobs, default: failure },
  ...guard("write"),
});

const job = createRoute({
  method: "get",
  path: "/v1/images/jobs/{id}",
  summary: "How far a job is",
  request: { params: z.object({ id: z.string().min(1).max(128) }) },
  responses: { 200: json(ImageJob, "The job"), default: failure },
  ...guard("read"),
});

const prune = createRoute({
  method: "post",
  path: "/v1/images/prune",
  summary: "Remove images that no machine needs and that are not pinned",
  request: { body: body(PruneImagesRequest) },
  responses: { 202: jobs, default: failure },
  ...guard("fleet_admin"),
});

const pin = createRoute({
  method: "post",
  path: "/v1/images/pin",
  summary: "Keep an image whatever happens, or end that",
  request: { body: body(PinImageRequest) },
  responses: { 202: jobs, default: failure },
  ...guard("fleet_admin"),
});

const remove = createRoute({
  method: "delete",
  path: "/v1/images/{id}",
  summary: "Remove an image from the host, or from every host that has it",
  description: "Refused with IMAGE_IN_USE where it is pinned or a machine needs it.",
  request: {
    params: z.object({ id: z.string().min(1).max(1_024) }),
    query: z.object({ host: z.string().min(1).max(256).optional() }),
  },
  responses: { 202: jobs, default: failure },
  ...guard("fleet_admin"),
});

export function imageRoutes(app: App, deps: HttpDeps): void {
  const show = async (rows: ImageJobRow[]): Promise<ImageJob[]> => {
    const hosts = await listHosts(deps.database.db);
    const names = new Map(hosts.map(({ id, hostname }) => [id, hostname]));
    return rows.map((row) => jobView(deps, row, names.get(row.hostId) ?? ""));
  };

  app.openapi(list, async (c) => {
    const { fleet, projectId } = c.get("principal");
    const own = fleet && c.req.header(PROJECT_HEADER) === undefined ? null : projectId;
    const { db } = deps.database;
    const machines = await machinesByImage(db, own);
    // By what others call the same image they would be known.
    const names = own === null ? null : await namesOfProject(db, own);
    const known = names === null ? null : new Set(names.flatMap((n) => normalReference(n) ?? []));
    return c.json(imageViews(await listImages(db, own), machines, known), 200);
  });

  app.openapi(pull, async (c) => {
    const rows = await pullImage(deps, c.get("principal"), c.req.valid("json"));
    return c.json(await show(rows), 202);
  });

  app.openapi(job, async (c) => {
    const row = await findImageJob(deps, c.get("principal"), c.req.valid("param").id);
    const [view] = await show([row]);
    return c.json(view ?? jobView(deps, row, ""), 200);
  });

  app.openapi(prune, async (c) => {
    const rows = await pruneImages(deps, c.get("principal"), c.req.valid("json"));
    return c.json(await show(rows), 202);
  });

  app.openapi(pin, async (c) => {
    const rows = await pinImage(deps, c.get("principal"), c.req.valid("json"));
    return c.json(await show(rows), 202);
  });

  app.openapi(remove, async (c) => {
    const image = c.req.valid("param").id;
    const rows = await removeImage(deps, c.get("principal"), { image, ...c.req.valid("query") });
    return c.json(await show(rows), 202);
  });
}

/** `known`: the names that may be shown; null = all. */
function imageViews(
  rows: ListedImage[],
  machines: Map<string, number>,
  known: ReadonlySet<string> | null,
): Image[] {
  const byDigest = new Map<string, Image>();
  for (const row of rows) {
    const { digest, hostId, sizeBytes } = row;
    const image = byDigest.get(digest) ?? { digest, references: [], size: sizeBytes, hosts: [] };
    byDigest.set(digest, image);
    const names = row.names.filter((name) => known === null || known.has(name));
    image.references = [...new Set([...image.references, ...names])];
    image.hosts.push({
      host_id: hostId,
      host_name: row.hostname,
      last_used_at: row.lastUsedAt.toISOString(),
      pinned: row.pinned,
      machines: machines.get(`${hostId} ${digest}`) ?? 0,
    });
  }
  return [...byDigest.values()];
}

function jobView(deps: HttpDeps, row: ImageJobRow, hostName: string): ImageJob {
  return {
    id: row.id,
    kind: row.kind,
    image: row.image,
    host_id: row.hostId,
    host_name: hostName,
    state: row.state,
    progress: row.state === "pending" ? deps.progress(row.id) : null,
    digest: row.digest,
    bytes: row.bytes,
    removed: row.removed,
    error_reason: row.errorReason,
    error_message: row.errorMessage,
    created_at: row.createdAt.toISOString(),
    finished_at: row.finishedAt?.toISOString() ?? null,
  };
}
