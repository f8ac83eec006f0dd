/**
 * Server-sent events out of an async generator. Pulled: while the client does not
 * read, nothing more is produced. Idle streams carry a comment, so that proxies
 * and the client see that the line is alive.
 */
export type SseEvent = { event: string; data: string; id?: string };

export const SSE_PING_MS = 10_000;

const encoder = new TextEncoder();

export function encodeEvent({ event, data, id }: SseEvent): string {
  // The data is JSON, which has no raw line breaks.
  return `${id === undefined ? "" : `id: ${id}\n`}event: ${event}\ndata: ${data}\n\n`;
}

/** `onCancel` is called when the client goes away; the source is expected to end then. */
export function sseResponse(
  source: AsyncGenerator<SseEvent>,
  options: { onCancel: () => void; requestId: string; pingMs?: number },
): Response {
  const pingMs = options.pingMs ?? SSE_PING_MS;
  let pending: Promise<IteratorResult<SseEvent>> | undefined;
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      // Something at once: headers alone may be held back until the first byte.
      controller.enqueue(encoder.encode(": ok\n\n"));
    },
    async pull(controller) {
      pending ??= source.next();
      const next = await orTimeout(pending, pingMs);
      if (next === undefined) return controller.enqueue(encoder.encode(": ping\n\n"));
      pending = undefined;
      if (next.done === true) return controller.close();
      controller.enqueue(encoder.encode(encodeEvent(next.value)));
    },
    async cancel() {
      options.onCancel();
      await source.return(undefined);
    },
  });
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
      "x-request-id": options.requestId,
    },
  });
}

/** Undefined when the promise takes longer. */
async function orTimeout<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
