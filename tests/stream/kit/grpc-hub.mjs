/**
 * A hub that shares nothing with ours: Node, @grpc/grpc-js and the .proto file named by
 * the caller. One JSON line each:
 *
 *   stdin   {do: "send", frame}, down the newest control stream | {do: "end"}
 *   stdout  {port} | {frame} of a control stream | {session: {chunks, bytes, end}}
 *
 * It welcomes whoever says Hello and acknowledges each result.
 */
import { createInterface } from "node:readline";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const { proto } = JSON.parse(process.argv[2] ?? "{}");
const definition = loader.loadSync(proto, {
  longs: String,
  enums: String,
  keepCase: true,
  oneofs: true,
  defaults: true,
});
const { AgentLink } = grpc.loadPackageDefinition(definition).leveret.v1;
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
let newest = null;
let epoch = 0;

function connect(call) {
  newest = call;
  epoch += 1;
  call.on("data", (frame) => {
    say({ frame });
    if (frame.frame === "hello")
      call.write({ epoch, welcome: { heartbeat_interval_ms: 200, replica_id: "rep_previous" } });
    if (frame.frame === "result") call.write({ epoch, result_ack: { op_id: frame.result.op_id } });
  });
  call.on("error", () => {});
  call.on("end", () => call.end());
}

function attach(call) {
  let chunks = 0;
  let bytes = 0;
  call.on("data", ({ frame, log, end }) => {
    if (frame === "log") {
      chunks += 1;
      bytes += log.data.length;
    } else if (frame === "end") say({ session: { chunks, bytes, end } });
  });
  call.on("error", () => {});
  call.on("end", () => call.end());
}

const server = new grpc.Server();
server.addService(AgentLink.service, { Connect: connect, Attach: attach });
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  say({ port });
});
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.do !== "send") break;
  newest?.write({ epoch, ...order.frame });
}
server.forceShutdown();
process.exit(0);
