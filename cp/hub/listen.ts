/**
 * The hub's HTTP/2 server: TLS, or plain on loopback. It asks for a client's
 * certificate and takes connections without one, which may call Enroll and nothing
 * else. Every connection is pinged: a peer that is gone without a word is noticed.
 */
import * as http2 from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import type { ServerCredentials } from "../ops/authority.ts";
import { dispatch } from "./calls.ts";
import { Pings } from "./pings.ts";
import type { LinkParts } from "./service.ts";

const HANDSHAKE_TIMEOUT_MS = 10_000;

export type HubListener = AsyncDisposable & { address: string };

export async function listenHub(
  parts: LinkParts,
  options: {
    host: string;
    port: number;
    pingIntervalMs?: number;
    strangerMs?: number;
    /** null = plain h2c. */
    tls: ServerCredentials | null;
  },
): Promise<HubListener> {
  const server = createServer(options.tls);
  server.on("stream", dispatch(parts));
  // Those in the middle of a handshake have no session yet.
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  const pings = new Pings(options.pingIntervalMs ?? LIMITS.pingIntervalMs);
  server.on("session", (session) => {
    const forget = pings.add(session);
    const strangerMs = options.strangerMs ?? LIMITS.strangerMs;
    const limit =
      options.tls !== null && !isAuthorized(session)
        ? // Asked again: over a slow link the session is there before the certificate.
          setTimeout(() => isAuthorized(session) || session.destroy(), strangerMs)
        : undefined;
    session.on("close", () => {
      forget();
      clearTimeout(limit);
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
      pings[Symbol.dispose]();
      for (const session of pings.sessions()) session.destroy();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

function createServer(tls: ServerCredentials | null): http2.Http2Server | http2.Http2SecureServer {
  if (tls === null) return http2.createServer();
  const server = http2.createSecureServer({
    ...tls,
    requestCert: true,
    // Strangers have to reach Enroll; every other call looks at the certificate itself.
    rejectUnauthorized: false,
    minVersion: "TLSv1.3",
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
  });
  // Handshakes that fail are the other side's matter.
  server.on("tlsClientError", () => undefined);
  return server;
}

function isAuthorized({ socket }: http2.ServerHttp2Session): boolean {
  return "authorized" in socket && socket.authorized;
}

function cannotListen(options: { host: string; port: number }, error: Error): LvError {
  return new LvError(
    "CONFIG_INVALID",
    `GRPC_PORT=${options.port}: cannot listen on ${options.host}:${options.port}: ${error.message}`,
    { cause: error },
  );
}
