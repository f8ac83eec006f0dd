/** The same echo for Node with @grpc/grpc-js: `node --expose-gc echo-peer.mjs PROTO`. Prints its port. */
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

process.on("SIGUSR2", () => globalThis.gc());
const definition = loader.loadSync(process.argv[2] ?? "", { oneofs: true });
const { AgentLink } = grpc.loadPackageDefinition(definition).leveret.v1;
const server = new grpc.Server();
server.addService(AgentLink.service, {
  Attach: (call) => {
    call.on("data", (frame) => call.write(frame));
    call.on("end", () => call.end());
    call.on("error", () => undefined);
  },
});
const insecure = grpc.ServerCredentials.createInsecure();
server.bindAsync("127.0.0.1:0", insecure, (error, port) => {
  if (error !== null) throw error;
  process.stdout.write(`${port}\n`);
});
