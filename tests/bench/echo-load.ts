/**
 * `bun echo-load.ts PORT STREAMS IN_FLIGHT SECONDS`: so many streams, each on a connection
 * of its own and with so many messages on their way. Prints "warm" after a warm-up, the
 * echoes per second that follow, then "idle", and holds its streams until it is killed.
 * 0 seconds: one message on each stream, and "idle".
 */
import { create, toBinary } from "@bufbuild/protobuf";
import {
  LogChunk_Stream,
  LogChunkSchema,
  SessionFrameSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { dataFrame, GrpcStream } from "./grpc-wire.ts";

const DIALS = 50;
const WARM_UP_MS = 1_500;
const DATA_BYTES = 128;

const [port = 0, streams = 0, inFlight = 0, seconds = 0] = process.argv.slice(2).map(Number);
const value = create(LogChunkSchema, {
  sequence: 1_000n,
  timeMs: BigInt(Date.now()),
  stream: LogChunk_Stream.STDOUT,
  data: new Uint8Array(DATA_BYTES).fill(120),
  incarnation: 1n,
});
const MESSAGE = dataFrame(
  toBinary(SessionFrameSchema, create(SessionFrameSchema, { frame: { case: "log", value } })),
);

let echoes = 0;
let going = true;
const all: GrpcStream[] = [];

async function dial(): Promise<GrpcStream> {
  const at = { hostname: "127.0.0.1", port, path: "/leveret.v1.AgentLink/Attach" };
  const stream: GrpcStream = await GrpcStream.open(at, {
    message: () => {
      echoes += 1;
      if (going && seconds > 0) stream.send(MESSAGE);
    },
    closed: () => {
      process.stderr.write("echo-load: a stream was closed\n");
      process.exit(1);
    },
  });
  return stream;
}

for (let at = 0; at < streams; at += DIALS)
  all.push(...(await Promise.all(Array.from({ length: Math.min(DIALS, streams - at) }, dial))));
for (let round = 0; round < inFlight; round += 1) for (const stream of all) stream.send(MESSAGE);
if (seconds > 0) {
  await Bun.sleep(WARM_UP_MS);
  process.stdout.write("warm\n");
  const before = echoes;
  const began = performance.now();
  await Bun.sleep(seconds * 1_000);
  process.stdout.write(`${((echoes - before) * 1_000) / (performance.now() - began)}\n`);
  going = false;
}
while (echoes < streams) await Bun.sleep(10);
process.stdout.write("idle\n");
