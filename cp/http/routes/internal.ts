/**
 * From replica to replica, with the cluster's own secret; not part of the API. A
 * request that is wrong in any way is a route that does not exist.
 */
import { timingSafeEqual } from "node:crypto";
import { LvError } from "../../../proto/errors.ts";
import type { FramePipe } from "../../hub/frame-pipe.ts";
import { METRICS_PATH, metricsAnswer, MetricsQuery } from "../../hub/routed-metrics.ts";
import { LOGS_PATH, LogQuery, logLines } from "../../hub/routed-logs.ts";
import type { Context } from "hono";
import type { MetricsSource } from "../../ops/machine-metrics.ts";
import { takeUpload, UPLOAD_PATH, UploadQuery } from "../../hub/routed-uploads.ts";
import { ATTACH_PATH, AttachQuery, type RoutedAttach } from "../../hub/routed-attach.ts";
import type { LogSource } from "../../ops/follow-logs.ts";
import type { Uploads } from "../../ops/load-image.ts";
import type { App, Env } from "../deps.ts";

export type Internal = {
  secret: string;
  /** Of this replica's own hub: what it is asked for is never passed on. */
  logs: LogSource;
  metrics: MetricsSource;
  uploads: Uploads;
  attach: Pick<RoutedAttach, "take" | "relayed">;
};

function forReplicas(c: Context<Env>, internal: Internal): void {
  if (!same(c.req.header("authorization"), `Bearer ${internal.secret}`))
    throw new LvError("NOT_FOUND", `No route ${c.req.method} ${c.req.path}`);
}

export function internalRoutes(app: App, internal: Internal, shutdown: AbortSignal): void {
  attachRoute(app, internal);
  app.get(METRICS_PATH, async (c) => {
    forReplicas(c, internal);
    const query = MetricsQuery.safeParse(c.req.query());
    if (!query.success) throw new LvError("NOT_FOUND", `No route GET ${METRICS_PATH}`);
    const signal = AbortSignal.any([c.req.raw.signal, shutdown]);
    return c.json(await metricsAnswer(internal.metrics, query.data, signal));
  });
  app.get(LOGS_PATH, (c) => {
    forReplicas(c, internal);
    const query = LogQuery.safeParse(c.req.query());
    if (!query.success) throw new LvError("NOT_FOUND", `No route GET ${LOGS_PATH}`);
    const gone = new AbortController();
    const signal = AbortSignal.any([c.req.raw.signal, shutdown, gone.signal]);
    const source = logLines(internal.logs, query.data, signal);
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      pull: async (controller) => {
        const next = await source.next();
        if (next.done === true) controller.close();
        else controller.enqueue(encoder.encode(next.value));
      },
      cancel: () => gone.abort(),
    });
    return new Response(body, { headers: { "content-type": "application/x-ndjson" } });
  });

  app.post(UPLOAD_PATH, async (c) => {
    const query = UploadQuery.safeParse(c.req.query());
    const { body } = c.req.raw;
    const isOurs = same(c.req.header("authorization"), `Bearer ${internal.secret}`);
    if (!query.success || !isOurs || body === null)
      throw new LvError("NOT_FOUND", `No route POST ${UPLOAD_PATH}`);
    const signal = AbortSignal.any([c.req.raw.signal, shutdown]);
    return c.json(await takeUpload(internal.uploads, query.data, body, signal));
  });
}

/** A WebSocket for each session whose Attach came to another replica. */
function attachRoute(app: App, internal: Internal): void {
  app.get(ATTACH_PATH, (c) => {
    forReplicas(c, internal);
    const query = AttachQuery.safeParse(c.req.query());
    const serve = (pipe: FramePipe): void => {
      if (query.success) void internal.attach.take(query.data, pipe);
    };
    if (!query.success || c.env?.upgrade?.({ serve, pipe: null }) !== true)
      throw new LvError("NOT_FOUND", `No route GET ${ATTACH_PATH}`);
    // The listener has answered already; this goes nowhere.
    return new Response(null);
  });
}

function same(given: string | undefined, wanted: string): boolean {
  const [a, b] = [Buffer.from(given ?? ""), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}
