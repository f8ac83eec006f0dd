import { LIMITS } from "../../../lib/limits.ts";
import { LvError } from "../../../proto/errors.ts";
import { LoadedImage } from "../../../proto/rest-images.ts";
import { targetHosts } from "../../ops/images.ts";
import { loadImage } from "../../ops/load-image.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";

export const LOAD_PATH = "/v1/images/load";

const load = createRoute({
  method: "post",
  path: LOAD_PATH,
  summary: "Bring an image in an archive to a host, or to every host that takes machines",
  description: `The body is what \`docker save\` writes, or a tar of an OCI layout; gzip or zstd around it is taken off. It is passed on as it comes: at most ${LIMITS.imageArchiveBytes} bytes. The answer comes when the image is built; a host that fails says why, and the others go on. Under an Idempotency-Key a second request is answered as the first was, and its archive is not read: the two are told apart by their path, query and Content-Length. The key of an archive that a host failed to take may be used again.`,
  request: {
    query: z.object({
      host: z.string().min(1).max(256).optional().meta({ description: "Id or name" }),
      tag: z
        .string()
        .max(1_024)
        .default("")
        .meta({ description: "Which image, when the archive has several" }),
    }),
    body: {
      required: true,
      content: {
        "application/octet-stream": { schema: z.string().meta({ format: "binary" }) },
      },
    },
  },
  responses: { 200: json(z.array(LoadedImage), "One for each host"), default: failure },
  ...guard("write"),
});

export function imageLoadRoutes(app: App, deps: HttpDeps): void {
  app.openapi(load, async (c) => {
    const { host, tag } = c.req.valid("query");
    const { body } = c.req.raw;
    if (body === null) throw new LvError("BAD_REQUEST", "The body is empty: send an archive");
    const hosts = await targetHosts(deps, host);
    const signal = AbortSignal.any([c.req.raw.signal, deps.shutdown]);
    const request = { hosts, tag, body };
    const outcomes = await loadImage(deps, deps.uploads, c.get("principal"), request, signal);
    // With one host its failure is the answer.
    const [only] = outcomes;
    if (outcomes.length === 1 && only !== undefined && only.error !== null) throw only.error;
    if (outcomes.some(({ error }) => error !== null)) c.set("unfinished", true);
    return c.json(
      outcomes.map(({ host: { id, hostname }, loaded, error }) => ({
        host_id: id,
        host_name: hostname,
        reference: loaded?.reference ?? null,
        digest: loaded?.digest ?? null,
        size: loaded?.sizeBytes ?? null,
        error_reason: error?.reason ?? null,
        error_message: error?.message ?? null,
      })),
      200,
    );
  });
}
