import { LIMITS } from "../../../lib/limits.ts";
import { FeedEvent, MachineEventBody } from "../../../proto/rest.ts";
import { listEvents } from "../../db/queries/events.ts";
import { followEvents, parsePosition, positionOf } from "../../ops/feed.ts";
import { findMachine } from "../../ops/find.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { errorBody, toLvError } from "../errors.ts";
import { nextPage, page } from "../pages.ts";
import { createRoute, failure, MachineRef, z } from "../schemas.ts";
import { sseResponse, type SseEvent } from "../sse.ts";
import { eventView } from "../view.ts";

const list = createRoute({
  method: "get",
  path: "/v1/machines/{id}/events",
  summary: "What happened to the machine, newest first",
  request: {
    params: MachineRef,
    query: z.object({
      limit: z.coerce.number().int().min(1).max(LIMITS.listMax).default(100),
      cursor: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).optional(),
    }),
  },
  responses: { 200: page(MachineEventBody, "Events"), default: failure },
  ...guard("read"),
});

const feed = createRoute({
  method: "get",
  path: "/v1/events",
  summary: "What happens to the project's machines, as it happens",
  description:
    'Server-sent events named "event" with a FeedEvent, in one order that no reconnect changes. Without a position the stream begins now; "0.0" is the oldest event that is kept.',
  request: {
    query: z.object({
      machine: z.string().min(1).max(128).optional().meta({ description: "Only of this one" }),
      after: z.string().max(40).optional().meta({ description: "A position: the id of an event" }),
    }),
    headers: z.object({ "last-event-id": z.string().max(40).optional() }),
  },
  responses: {
    200: { description: "Events", content: { "text/event-stream": { schema: FeedEvent } } },
    default: failure,
  },
  ...guard("read"),
});

export function eventRoutes(app: App, deps: HttpDeps): void {
  app.openapi(list, async (c) => {
    const { id } = await findMachine(deps, c.get("principal").projectId, c.req.valid("param").id);
    const { limit, cursor } = c.req.valid("query");
    const rows = await listEvents(deps.database.db, id, limit, cursor ?? null);
    nextPage(c, rows, limit, (row) => String(row.sequence));
    return c.json(rows.map(eventView), 200);
  });

  app.openapi(feed, async (c) => {
    const { machine, after } = c.req.valid("query");
    const { projectId } = c.get("principal");
    // A client that reconnects says where it was; that is newer than its first address.
    const position = c.req.valid("header")["last-event-id"] ?? after;
    const request = {
      projectId,
      machineId:
        machine === undefined ? undefined : (await findMachine(deps, projectId, machine)).id,
      after: position === undefined ? undefined : parsePosition(position),
    };
    const gone = new AbortController();
    const ended = AbortSignal.any([gone.signal, c.req.raw.signal, deps.shutdown]);
    const requestId = c.get("requestId");
    return sseResponse(feedEvents(deps, request, ended, requestId), {
      onCancel: () => gone.abort(),
      requestId,
    });
  });
}

async function* feedEvents(
  deps: HttpDeps,
  request: Parameters<typeof followEvents>[1],
  signal: AbortSignal,
  requestId: string,
): AsyncGenerator<SseEvent> {
  try {
    for await (const row of followEvents(deps, request, signal)) {
      const body: FeedEvent = {
        ...eventView(row),
        machine_id: row.machineId,
        project_id: row.projectId,
      };
      yield { event: "event", data: JSON.stringify(body), id: positionOf(row) };
    }
  } catch (error) {
    if (signal.aborted) return;
    // The status line is sent long ago: the error is an event, and the reader comes back.
    const known = toLvError(error);
    deps.log.warn({ requestId, err: error }, "event stream failed");
    yield { event: "error", data: JSON.stringify(errorBody(known, requestId)) };
  }
}
