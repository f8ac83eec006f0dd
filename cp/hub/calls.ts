/** HTTP/2 streams → calls: the control stream is ours from the first byte, the library has the rest. */
import { createServer, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { LIMITS } from "../../lib/limits.ts";
import {
  AgentFrameSchema,
  AgentLink,
  HubFrameSchema,
  type AgentFrame,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { ControlStream } from "./control.ts";
import { GrpcCall } from "./grpc.ts";
import { callerOf, contextOf, stranger } from "./peer.ts";
import { hubService, type HubParts, type LinkParts } from "./service.ts";

const CONTROL_PATH = `/${AgentLink.typeName}/${AgentLink.method.connect.name}`;
const CONTENT_TYPES = new Set(["application/grpc", "application/grpc+proto"]);
const CONTROL_LIMITS = {
  messageBytes: LIMITS.frameBytes,
  unsentMessages: LIMITS.hubQueueFrames,
};

/** For a server's "stream" event. */
export function dispatch(
  parts: LinkParts,
): (
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
  flags: number,
  rawHeaders: string[],
) => void {
  const adapter = connectNodeAdapter({
    routes: (router) => void router.service(AgentLink, hubService(parts)),
    // Compressing random bytes costs ten times the throughput; the link is local to a site.
    acceptCompression: [],
    readMaxBytes: LIMITS.frameBytes,
    grpcWeb: false,
    contextValues: (request) => contextOf(parts.authority, request),
  });
  // Never listens: it makes of a stream the request and the response that the adapter takes.
  const others = createServer(adapter);
  return (stream, headers, flags, rawHeaders) => {
    const type = headers["content-type"] ?? "";
    if (headers[":path"] === CONTROL_PATH && CONTENT_TYPES.has(type))
      acceptControl(parts, stream, type);
    else others.emit("stream", stream, headers, flags, rawHeaders);
  };
}

function acceptControl(parts: HubParts, stream: ServerHttp2Stream, type: string): void {
  const caller = callerOf(parts.authority, stream.session?.socket);
  new GrpcCall(stream, type, CONTROL_LIMITS, (call) => {
    const control = new ControlStream(parts, caller === "stranger" ? null : caller, {
      send: (frame) => call.send(toBinary(HubFrameSchema, frame)),
      end: (error) => call.end(error),
      abort: () => call.abort(),
    });
    // Ended, a call reads nothing: the stranger's Hello goes nowhere.
    if (caller === "stranger") call.end(stranger().toConnect());
    return {
      message: (bytes) => {
        const frame = decode(bytes);
        if (frame instanceof ConnectError) call.end(frame);
        else control.frame(frame);
      },
      halfClosed: () => control.halfClosed(),
      closed: () => control.closed(),
    };
  });
}

function decode(bytes: Uint8Array): AgentFrame | ConnectError {
  try {
    return fromBinary(AgentFrameSchema, bytes);
  } catch {
    return new ConnectError("A message is not an AgentFrame", Code.InvalidArgument);
  }
}
