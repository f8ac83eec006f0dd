/**
 * The hub's HTTP/2 server. connect-node has no keep-alive on the server's side,
 * so every connection is pinged here; one that does not answer by the next ping
 * is destroyed, which aborts its calls.
 */
import * as http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { LIMITS } from "../../lib/limits.ts";
import { AgentLink } from "../../proto/gen/leveret/v1/agent_pb.js";
import { LvError } from "../../proto/errors.ts";
import { hubService, type HubParts } from "./service.ts";

export type HubListener = AsyncDisposable & { address: string };

export async function listenHub(
  parts: HubParts,
  options: { host: string; port: number; pingIntervalMs?: number },
): Promise<HubListener> {
  const handler = connectNodeAdapter({
    routes: (router) => void router.service(AgentLink, hubService(parts)),
    // Compressing random bytes costs ten times the throughput; the link is local to a site.
    acceptCompression: [],
    readMaxBytes: LIMITS.frameBytes,
    grpcWeb: false,
  });
  const server = http2.createServer(handler);
  const sessions = new Set<http2.ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    const stop = keepAlive(session, options.pingIntervalMs ?? LIMITS.pingIntervalMs);
    session.on("close", () => {
      stop();
      sessions.delete(session);
    });
    // ECONNRESET and the like: the close that follows is what counts.
    session.on("error", () => undefined);
  });
  server.on("sessionError", () => undefined);
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => reject(cannotListen(options, error)));
    server.listen(options.port, options.host, () => resolve());
  });
  const { port } = server.address() as AddressInfo;
  return {
    address: `${options.host.includes(":") ? `[${options.host}]` : options.host}:${port}`,
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const session of sessions) session.destroy();
      await closed;
    },
  };
}

function keepAlive(session: http2.ServerHttp2Session, intervalMs: number): () => void {
  let waiting = false;
  const timer = setInterval(() => {
    if (waiting || session.destroyed) return session.destroy();
    waiting = true;
    session.ping(() => (waiting = false));
  }, intervalMs);
  return () => clearInterval(timer);
}

function cannotListen(options: { host: string; port: number }, error: Error): LvError {
  return new LvError(
    "CONFIG_INVALID",
    `GRPC_PORT=${options.port}: cannot listen on ${options.host}:${options.port}: ${error.message}`,
    { cause: error },
  );
}
