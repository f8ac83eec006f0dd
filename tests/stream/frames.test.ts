/** Frames of every size pass or are refused cleanly; what a newer release says is skipped. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import {
  AgentFrameSchema,
  HubFrameSchema,
  LogChunk_Stream,
  MachineState,
  OpSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { MachineId, OpId } from "../../proto/ids.ts";
import type { LogLine, Machine } from "../../proto/rest.ts";
import type { ControlPlane } from "../../cp/server.ts";
import { FakeHub } from "../kit/fake-hub.ts";
import { startOp } from "../kit/ops.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { AUTHORIZATION } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, machineOf, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(60_000);

const KIB = 1024;
const SIZES = [16 * KIB, 64 * KIB - 1, 64 * KIB, 1024 * KIB];
const TOO_LARGE = 4 * 1024 * KIB + 1;
/** A field number that no release has used. */
const NEWER = { no: 1_000, wireType: WireType.Varint, data: new Uint8Array([1]) };

let plane: ControlPlane;
beforeAll(async () => {
  plane = await startPlane();
});
afterAll(() => plane[Symbol.asyncDispose]());

async function started(agent: FakeAgent): Promise<Machine> {
  const before = agent.ops().length;
  const machine = await createMachine(plane);
  agent.runStart(await agent.op(before + 1));
  return untilState(plane, machine.id, "started");
}

async function handled(agent: FakeAgent, machine: Machine): Promise<void> {
  const marker = create(OpSchema, { opId: OpId.create(), machineId: machine.id });
  agent.result(marker);
  await until("what was sent to be handled", () => agent.acked().includes(marker.opId));
}

const running = (message: string) =>
  ({ state: MachineState.STARTED, generation: 1n, incarnation: 1n, message }) as const;

test("matrix: frames up to 1 MiB pass upward, and what they say is kept short", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  for (const size of SIZES) {
    agent.status(machine.id, running(`${size}`.padEnd(size, "x")));
    await handled(agent, machine);
    const { status_message: message } = await machineOf(plane, machine.id);
    expect(message).toBe(`${size}`.padEnd(4_096, "x"));
  }
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
});

test("matrix: a frame above 4 MiB ends its own stream and nobody else's", async () => {
  await using bystander = await FakeAgent.connect(plane.grpcAddr);
  const agent = await FakeAgent.connect(plane.grpcAddr);
  agent.status(MachineId.create(), running("x".repeat(TOO_LARGE)));
  await until("the stream to end", () => agent.ended);
  await until("the host to be down", async () => {
    const reply = await call(plane, "GET", `/v1/hosts/${agent.hostId}`);
    return (reply.body as { state: string }).state === "disconnected";
  });
  expect(bystander.ended).toBe(false);
  await using _again = await FakeAgent.connect(plane.grpcAddr, { hostId: agent.hostId });
  const reply = await call(plane, "GET", `/v1/hosts/${agent.hostId}`);
  expect(reply.body).toMatchObject({ state: "ready" });
});

function chunk(sequence: number, size: number) {
  return {
    case: "log",
    value: {
      $typeName: "leveret.v1.LogChunk",
      sequence: BigInt(sequence),
      timeMs: 1n,
      stream: LogChunk_Stream.STDOUT,
      data: new Uint8Array(size).fill(97 + sequence),
      incarnation: 1n,
    },
  } as const;
}

const END = {
  case: "end",
  value: { $typeName: "leveret.v1.SessionEnd", errorReason: "", errorMessage: "" },
} as const;

test("matrix: pieces of output up to 1 MiB pass whole; one above 4 MiB is a typed error", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  const url = `${plane.httpUrl}/v1/machines/${machine.id}/logs`;
  const whole = fetch(url, { headers: AUTHORIZATION });
  const first = await until("OpenSession", () => agent.sessions()[0]);
  await agent.attach(first.sessionId, [...SIZES.map((size, n) => chunk(n + 1, size)), END]);
  const text = await (await whole).text();
  const lines = [...text.matchAll(/event: log\ndata: (.*)/g)].map(
    (match) => JSON.parse(match[1] ?? "") as LogLine,
  );
  expect(lines.map(({ data }) => atob(data).length)).toEqual(SIZES);
  expect(text).toEndWith("event: end\ndata: {}\n\n");
  // What was read was granted again, so that a long log never comes to a stop.
  expect(agent.granted).toBe(SIZES.reduce((sum, size) => sum + size, 0));

  const broken = fetch(url, { headers: AUTHORIZATION });
  const second = await until("OpenSession", () => agent.sessions()[1]);
  await agent.attach(second.sessionId, [chunk(1, TOO_LARGE), END]).catch(() => undefined);
  expect(await (await broken).text()).toContain("event: error");
  await handled(agent, machine);
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
});

test("matrix: frames up to 1 MiB pass downward; one above 4 MiB costs the agent its stream only", async () => {
  await using hub = await FakeHub.start();
  await using agent = await TestAgent.start(hub.addr);
  const stream = await hub.stream();
  for (const [at, size] of SIZES.entries()) {
    const op = startOp(MachineId.create(), 1, { env: { BIG: "x".repeat(size) } });
    stream.send({ case: "op", value: op });
    await until("the result", () => stream.results.length === at + 1);
    expect(stream.results[at]).toMatchObject({ opId: op.opId, errorReason: "" });
  }
  const huge = startOp(MachineId.create(), 1, { env: { BIG: "x".repeat(TOO_LARGE) } });
  stream.send({ case: "op", value: huge });
  await until("a new stream", () => hub.streams.length > 1);
  const next = await hub.stream();
  expect(next.hello?.inventory).toHaveLength(SIZES.length);
  expect(agent.driver.running).toBe(SIZES.length);
});

test("matrix: an op of a newer release is answered UNIMPLEMENTED, and the stream goes on", async () => {
  await using hub = await FakeHub.start();
  await using _agent = await TestAgent.start(hub.addr);
  const stream = await hub.stream();
  const op = create(OpSchema, {
    opId: OpId.create(),
    machineId: MachineId.create(),
    generation: 1n,
  });
  op.$unknown = [NEWER];
  stream.send({ case: "op", value: op });
  await until("its result", () => stream.results.length === 1);
  expect(stream.results[0]).toMatchObject({ opId: op.opId, errorReason: "UNIMPLEMENTED" });
  const known = startOp(MachineId.create(), 1);
  stream.send({ case: "op", value: known });
  await until("the next result", () => stream.results.length === 2);
  expect(stream.results[1]).toMatchObject({ opId: known.opId, errorReason: "" });
  expect(hub.streams).toHaveLength(1);
});

test("frames of a newer release are skipped, in both directions", async () => {
  await using hub = await FakeHub.start();
  await using _agent = await TestAgent.start(hub.addr);
  const stream = await hub.stream();
  const newer = create(HubFrameSchema, { epoch: stream.epoch });
  newer.$unknown = [NEWER];
  stream.push(newer);
  const op = startOp(MachineId.create(), 1);
  stream.send({ case: "op", value: op });
  await until("the result", () => stream.results.length === 1);
  expect(hub.streams).toHaveLength(1);

  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const frame = create(AgentFrameSchema);
  frame.$unknown = [NEWER];
  agent.push(frame);
  const machine = await started(agent);
  expect(agent.ended).toBe(false);
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
});
