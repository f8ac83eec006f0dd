import { LogLine } from "../../../proto/rest.ts";
import { findMachine } from "../../ops/find.ts";
import { readLogs, type LogPiece, type LogRequest } from "../../ops/follow-logs.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { errorBody, toLvError } from "../errors.ts";
import { createRoute, failure, MachineRef, z } from "../schemas.ts";
import { sseResponse, type SseEvent } from "../sse.ts";
import { instanceId } from "../view.ts";

const sequence = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const logs = createRoute({
  method: "get",
  path: "/v1/machines/{id}/logs",
  summary: "The machine's output",
  description:
    'Server-sent events: "log" with a LogLine, whose SSE id is its sequence; "end" when the output is complete; "error" with an Error body. With `follow` the stream goes on until the run has ended.',
  request: {
    params: MachineRef,
    query: z.object({
      follow: z.enum(["true", "false", "1", "0", ""]).default("false"),
      after: sequence.optional().meta({ description: "Only what has a greater sequence" }),
    }),
    headers: z.object({ "last-event-id": sequence.optional() }),
  },
  responses: {
    200: {
      description: "Events",
      // OpenAPI has no word for events; this is the data of the one that matters.
      content: { "text/event-stream": { schema: LogLine } },
    },
    default: failure,
  },
  ...guard("read"),
});

export function logRoutes(app: App, deps: HttpDeps): void {
  app.openapi(logs, async (c) => {
    const query = c.req.valid("query");
    const { id } = await findMachine(deps, c.get("principal").projectId, c.req.valid("param").id);
    const request = {
      id,
      // A client that reconnects says where it was; that is newer than its first address.
      after: c.req.valid("header")["last-event-id"] ?? query.after ?? 0,
      follow: query.follow === "true" || query.follow === "1",
    };
    const gone = new AbortController();
    const ended = AbortSignal.any([gone.signal, c.req.raw.signal, deps.shutdown]);
    const requestId = c.get("requestId");
    return sseResponse(events(deps, request, ended, requestId), {
      onCancel: () => gone.abort(),
      requestId,
    });
  });
}

async function* events(
  deps: HttpDeps,
  request: LogRequest,
  signal: AbortSignal,
  requestId: string,
): AsyncGenerator<SseEvent> {
  try {
    for await (const piece of readLogs(deps, deps.logs, request, signal))
      yield eventOf(request.id, piece);
    yield { event: "end", data: "{}" };
  } catch (error) {
    // The status line is sent long ago: the error is an event.
    if (signal.aborted) return;
    const known = toLvError(error);
    if (known.httpStatus >= 500) deps.log.warn({ requestId, err: error }, "log stream failed");
    yield { event: "error", data: JSON.stringify(errorBody(known, requestId)) };
  }
}

function eventOf(machineId: string, piece: LogPiece): SseEvent {
  const line: LogLine = {
    sequence: piece.sequence,
    time: piece.timeMs,
    stream: piece.stream,
    data: Buffer.from(piece.data).toString("base64"),
    instance_id: instanceId(machineId, piece.incarnation),
  };
  return { event: "log", data: JSON.stringify(line), id: String(piece.sequence) };
}
