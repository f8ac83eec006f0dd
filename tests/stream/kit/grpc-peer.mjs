/**
 * An agent that shares nothing with ours: Node, @grpc/grpc-js and the .proto file
 * named by the caller. It is told what to do in JSON lines, and tells what it met:
 *
 *   stdin   {do: "enroll", request} | {do: "connect", hello} | {do: "end"}
 *   stdout  {enrolled} | {stream, frame} | {stream, end} | {stream, error}
 *
 * Bytes are base64 and 64-bit numbers strings, as proto-loader gives them. Ops are
 * acknowledged and answered as a host would that starts and stops things at once.
 */
import { createInterface } from "node:readline";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const { proto, address, tls } = JSON.parse(process.argv[2] ?? "{}");
const definition = loader.loadSync(proto, {
  longs: String,
  enums: String,
  bytes: String,
  keepCase: true,
  oneofs: true,
});
const { AgentLink } = grpc.loadPackageDefinition(definition).leveret.v1;

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const pem = (der) =>
  Buffer.from(
    `-----BEGIN CERTIFICATE-----\n${der.match(/.{1,64}/g).join("\n")}\n-----END CERTIFICATE-----\n`,
  );
const clients = [];
let cert = null;
let count = 0;

function client() {
  const credentials =
    tls === null
      ? grpc.credentials.createInsecure()
      : grpc.credentials.createSsl(
          Buffer.from(tls.ca),
          ...(cert === null ? [] : [Buffer.from(tls.key), cert]),
        );
  const made = new AgentLink(address, credentials, { "grpc.use_local_subchannel_pool": 1 });
  clients.push(made);
  return made;
}

function enroll(request) {
  client().Enroll(request, (error, reply) => {
    if (error === null) cert = pem(reply.certificate);
    say({ enrolled: error === null, code: error?.code ?? 0 });
  });
}

function connect(hello) {
  const stream = (count += 1);
  const call = client().Connect();
  call.on("data", (frame) => {
    say({ stream, frame });
    if (frame.frame === "op") answer(call, frame.op);
  });
  call.on("end", () => {
    call.end();
    say({ stream, end: true });
  });
  call.on("error", (error) => say({ stream, error: error.code, details: error.details }));
  call.write({ hello });
}

function answer(call, op) {
  const { op_id, machine_id, generation } = op;
  call.write({ ack: { op_id } });
  const base = { machine_id, generation, incarnation: op.start?.incarnation ?? "1" };
  const states = {
    start: "MACHINE_STATE_STARTED",
    stop: "MACHINE_STATE_STOPPED",
    destroy: "MACHINE_STATE_DESTROYED",
  };
  const state = states[op.command];
  call.write({ result: { op_id, machine_id, status: { ...base, state, sequence: generation } } });
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.do === "enroll") enroll(order.request);
  else if (order.do === "connect") connect(order.hello);
  else break;
}
for (const made of clients) made.close();
process.exit(0);
