/** Sends back what it is sent, through what the hub's control streams go through. Prints its port. */
import { createServer, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { GrpcCall } from "../../cp/hub/grpc.ts";
import { LIMITS } from "../../lib/limits.ts";
import { SessionFrameSchema } from "../../proto/gen/leveret/v1/agent_pb.js";

const server = createServer();
server.on("stream", (stream: ServerHttp2Stream) => {
  new GrpcCall(
    stream,
    "application/grpc+proto",
    { messageBytes: LIMITS.frameBytes, unsentMessages: LIMITS.hubQueueFrames },
    (call) => ({
      message: (bytes) => {
        const frame = fromBinary(SessionFrameSchema, bytes);
        if (!call.send(toBinary(SessionFrameSchema, frame))) call.abort();
      },
      halfClosed: () => call.end(),
      closed: () => undefined,
    }),
  );
});
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address() as AddressInfo;
  process.stdout.write(`${port}\n`);
});
