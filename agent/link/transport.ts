/**
 * How the agent dials. Every long-lived stream has an HTTP/2 connection of its own:
 * in Bun's node:http2 a stream that is blocked by flow control holds up all others
 * of its connection (oven-sh/bun#43422).
 */
import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { LIMITS } from "../../lib/limits.ts";
import { checkHub } from "./trust.ts";
import { AgentLink } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { AgentConfig } from "../config.ts";

export type Dialled = Disposable & { client: Client<typeof AgentLink> };

type LinkConfig = Pick<AgentConfig, "controlPlaneAddr" | "insecureLink">;

/** PEM. Without a certificate the hub answers Enroll only. */
export type Credentials = { ca: string; cert: string | null; key: string | null };

/** Connects when the first call is made. `credentials`: null = plain h2c. */
export function dial(config: LinkConfig, credentials: Credentials | null): Dialled {
  const baseUrl = `${credentials === null ? "http" : "https"}://${config.controlPlaneAddr}`;
  const sessionManager = new Http2SessionManager(
    baseUrl,
    { pingIntervalMs: LIMITS.pingIntervalMs, pingTimeoutMs: LIMITS.pingTimeoutMs },
    credentials === null ? {} : secure(credentials),
  );
  const transport = createGrpcTransport({
    baseUrl,
    sessionManager,
    // The adapter would compress each frame, at a tenth of the throughput.
    acceptCompression: [],
    readMaxBytes: LIMITS.frameBytes,
    writeMaxBytes: LIMITS.frameBytes,
  });
  return {
    client: createClient(AgentLink, transport),
    [Symbol.dispose]: () => sessionManager.abort(),
  };
}

function secure({ ca, cert, key }: Credentials) {
  const own = cert === null || key === null ? {} : { cert, key };
  return { ca, ...own, minVersion: "TLSv1.3", checkServerIdentity: checkHub } as const;
}
