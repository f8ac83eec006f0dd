/** Half-open connections and a database that goes away under a running control plane. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import * as net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { HeartbeatSchema, MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import { startEmbedded } from "../../cp/db/embedded.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, machineOf, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(60_000);

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "leveret-faults-"));
  chmodSync(root, 0o755);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A TCP relay that can fall silent without closing anything. */
async function relay(target: string) {
  const [host = "", port = ""] = target.split(":");
  const sockets: net.Socket[] = [];
  const server = net.createServer((near) => {
    const far = net.connect(Number(port), host);
    sockets.push(near, far);
    near.pipe(far);
    far.pipe(near);
    for (const socket of [near, far]) socket.on("error", () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port: own } = server.address() as net.AddressInfo;
  return {
    address: `127.0.0.1:${own}`,
    silence: (): void => {
      for (const socket of sockets) socket.unpipe().pause();
    },
    [Symbol.asyncDispose]: async (): Promise<void> => {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

test("matrix: half-open connection: a host whose connection falls silent is marked down, though nothing was closed", async () => {
  await using plane = await startPlane({ pingIntervalMs: 100 });
  await using line = await relay(plane.grpcAddr);
  const agent = await FakeAgent.connect(line.address);
  const machine = await createMachine(plane);
  agent.runStart(await agent.op(1));
  await untilState(plane, machine.id, "started");
  line.silence();
  const lost = await untilState(plane, machine.id, "unknown");
  expect(lost).toMatchObject({ status_reason: "HOST_UNAVAILABLE", desired_state: "started" });
  expect((await call(plane, "GET", `/v1/machines/${machine.id}/events`)).body).toMatchObject([
    { type: "host_down", status: "unknown", source: "system" },
    { status: "started" },
    { status: "starting" },
    { status: "created" },
  ]);
  await agent.drop();
});

test("matrix: a frame lost in a living stream: the hub ends the stream at the next heartbeat", async () => {
  await using plane = await startPlane();
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const beat = (framesSent: bigint): void =>
    agent.send({ case: "heartbeat", value: create(HeartbeatSchema, { framesSent }) });
  const before = await createMachine(plane);
  // Hello was the first one; an agent that does not count says 0.
  beat(1n);
  beat(0n);
  agent.runStart(await agent.op(1));
  await untilState(plane, before.id, "started");
  beat(6n);
  await untilState(plane, before.id, "started");
  expect(agent.ended).toBe(false);
  beat(8n);
  await until("the end", () => agent.ended);
});

test("matrix: PostgreSQL gone: while it is away the links stay, the API answers 503, and nothing is lost", async () => {
  const directory = join(root, "away");
  const first = await startEmbedded(directory);
  const { host, port, username, database } = first.address;
  const databaseUrl = `postgres://${username}@localhost:${port}/${database}?host=${encodeURIComponent(host)}`;
  await using plane = await startPlane({ config: { databaseUrl } });
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  agent.runStart(await agent.op(1));
  await untilState(plane, machine.id, "started");

  await first[Symbol.asyncDispose]();
  const refused = await call(plane, "GET", "/v1/machines");
  expect(refused).toMatchObject({
    status: 503,
    body: { error: { reason: "DATABASE_UNAVAILABLE" } },
  });
  agent.status(machine.id, {
    state: MachineState.STOPPED,
    generation: 1n,
    incarnation: 1n,
    exited: true,
    exitCode: 5,
  });
  expect((await call(plane, "GET", "/readyz")).status).toBe(503);
  expect(agent.ended).toBe(false);

  await using _second = await startEmbedded(directory);
  const ended = await until("the report that came meanwhile", async () => {
    const reply = await call(plane, "GET", `/v1/machines/${machine.id}`);
    return reply.status === 200 && (await machineOf(plane, machine.id)).state === "stopped";
  }).then(() => machineOf(plane, machine.id));
  expect(ended.exit_code).toBe(5);
  expect(agent.ended).toBe(false);
  expect((await call(plane, "GET", `/v1/hosts/${agent.hostId}`)).body).toMatchObject({
    state: "ready",
  });
  // The plane before its database: the stack unwinds in the other order.
  await agent.drop();
  await plane[Symbol.asyncDispose]();
});
