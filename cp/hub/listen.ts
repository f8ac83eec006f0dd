/**
 * The hub's HTTP/2 server: TLS, or plain on loopback. It asks for a client's
 * certificate and takes connections without one, which may call Enroll and nothing
 * else. connect-node has no keep-alive on the server's side,
 * so every connection is pinged here; one that does not answer by the next ping
 * is destroyed, which aborts its calls.
 */
import * as http2 from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { LIMITS } from "../../lib/limits.ts";
import { AgentLink } from "../../proto/gen/leveret/v1/agent_pb.js";
import { LvError } from "../../proto/errors.ts";
import type { ServerCredentials } from "../ops/authority.ts";
import { contextOf } from "./peer.ts";
import { hubService, type HubParts } from "./service.ts";

const HANDSHAKE_TIMEOUT_MS = 10_000;

export type HubListener = AsyncDisposable & { address: string };

export async function listenHub(
  parts: HubParts,
  options: {
    host: string;
    port: number;
    pingIntervalMs?: number;
    strangerMs?: number;
    /** null = plain h2c. */
    tls: ServerCredentials | null;
  },
): Promise<HubListener> {
  const handler = connectNodeAdapter({
    routes: (router) => void router.service(AgentLink, hubService(parts)),
    // Compressing random bytes costs ten times the throughput; the link is local to a site.
    acceptCompression: [],
    readMaxBytes: LIMITS.frameBytes,
    grpcWeb: false,
    contextValues: (request) => contextOf(parts.authority, request),
  });
  const server = createServer(options.tls, handler);
  // Those in the middle of a handshake have no session yet.
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  const sessions = new Set<http2.ServerHttp2Session>();
  server.on("session", (session) => {
    sessions.add(session);
    const stop = keepAlive(session, options.pingIntervalMs ?? LIMITS.pingIntervalMs);
    const strangerMs = options.strangerMs ?? LIMITS.strangerMs;
    const limit =
      options.tls !== null && !isAuthorized(session)
        ? // Asked again: over a slow link the session is there before the certificate.
          setTimeout(() => isAuthorized(session) || session.destroy(), strangerMs)
        : undefined;
    session.on("close", () => {
      stop();
      clearTimeout(limit);
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
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

type Handler = ReturnType<typeof connectNodeAdapter>;

function createServer(
  tls: ServerCredentials | null,
  handler: Handler,
): http2.Http2Server | http2.Http2SecureServer {
  if (tls === null) return http2.createServer(handler);
  const server = http2.createSecureServer(
    {
      ...tls,
      requestCert: true,
      // Strangers have to reach Enroll; every other call looks at the certificate itself.
      rejectUnauthorized: false,
      minVersion: "TLSv1.3",
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    },
    handler,
  );
  // Handshakes that fail are the other side's matter.
  server.on("tlsClientError", () => undefined);
  return server;
}

function isAuthorized({ socket }: http2.ServerHttp2Session): boolean {
  return "authorized" in socket && socket.authorized;
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
