/**
 * How the agent dials. Every long-lived stream has an HTTP/2 connection of its own:
 * in Bun's node:http2 a stream that is blocked by flow control holds up all others
 * of its connection (oven-sh/bun#43422).
 */
import { type Client, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { AgentLink } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { AgentConfig } from "../config.ts";

export type Dialled = Disposable & { client: Client<typeof AgentLink> };

type LinkConfig = Pick<AgentConfig, "controlPlaneAddr" | "insecureLink">;

/** Throws CONFIG_INVALID; connects when the first call is made. */
export function dial(config: LinkConfig): Dialled {
  if (!config.insecureLink)
    throw new LvError(
      "CONFIG_INVALID",
      "mTLS is not available in this version: set LEVERET_INSECURE_LINK=1 on a link that nobody else can reach",
    );
  const baseUrl = `http://${config.controlPlaneAddr}`;
  const sessionManager = new Http2SessionManager(baseUrl, {
    pingIntervalMs: LIMITS.pingIntervalMs,
    pingTimeoutMs: LIMITS.pingTimeoutMs,
  });
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
