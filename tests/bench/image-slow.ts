/** A registry behind a link of so many bytes a second, whatever the number of connections. */
export type SlowLink = AsyncDisposable & { host: string };

const SLICE_BYTES = 64 << 10;

export function slowLink(registry: string, bytesPerSecond: number): SlowLink {
  // When the link is free again; what is sent queues up behind it.
  let freeAt = 0;
  const send = async (bytes: number): Promise<void> => {
    const now = performance.now();
    freeAt = Math.max(freeAt, now) + (bytes / bytesPerSecond) * 1000;
    if (freeAt - now > 2) await Bun.sleep(freeAt - now);
  };
  async function* throttled(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of body)
      for (let at = 0; at < chunk.length; at += SLICE_BYTES) {
        const slice = chunk.subarray(at, at + SLICE_BYTES);
        await send(slice.length);
        yield slice;
      }
  }
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    idleTimeout: 0,
    fetch: async (request) => {
      const { pathname } = new URL(request.url);
      const headers = new Headers(request.headers);
      headers.delete("host");
      const answer = await fetch(`http://${registry}${pathname}`, {
        method: request.method,
        headers,
        decompress: false,
      });
      const { status, body } = answer;
      if (body === null || request.method === "HEAD")
        return new Response(null, { status, headers: answer.headers });
      return new Response(throttled(body), { status, headers: answer.headers });
    },
  });
  return {
    host: `127.0.0.1:${server.port}`,
    [Symbol.asyncDispose]: async () => await server.stop(true),
  };
}
