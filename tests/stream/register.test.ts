/** Who speaks for a host: registering, superseding, disconnecting, fencing. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { Goodbye_Reason, MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId } from "../../proto/ids.ts";
import type { Host } from "../../proto/rest.ts";
import { markDisconnected, registerHost, touchHost } from "../../cp/db/queries/hosts.ts";
import { storeReport } from "../../cp/ops/report.ts";
import type { ControlPlane } from "../../cp/server.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, machineOf, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(30_000);

let plane: ControlPlane;
beforeAll(async () => {
  plane = await startPlane();
});
afterAll(() => plane[Symbol.asyncDispose]());

async function hostOf(id: string): Promise<Host> {
  return (await call(plane, "GET", `/v1/hosts/${id}`)).body as Host;
}

function goodbyeOf(agent: FakeAgent) {
  return agent.frames.map(({ frame }) => frame).find((frame) => frame.case === "goodbye");
}

test("a host without an id is given one, and one with an id keeps it", async () => {
  await using fresh = await FakeAgent.connect(plane.grpcAddr, { hostId: "" });
  const welcome = fresh.frames[0]?.frame;
  if (welcome?.case !== "welcome") throw new Error("no Welcome");
  expect(HostId.is(welcome.value.hostId)).toBe(true);
  expect(fresh.epoch).toBe(1n);
  await using known = await FakeAgent.connect(plane.grpcAddr);
  expect(known.frames[0]?.frame).toMatchObject({ value: { hostId: known.hostId } });
});

test("a Hello that cannot be right is refused for good", async () => {
  for (const hello of [
    { hostId: "hst_nonsense" },
    { kvm: "magic" },
    { capacity: { cpus: 0, memoryMib: 1n, diskMib: 1n } },
    { capacity: { cpus: 1, memoryMib: 2n ** 63n, diskMib: 1n } },
  ]) {
    await using agent = await FakeAgent.connect(plane.grpcAddr, hello);
    await until("the end", () => agent.ended);
    expect(goodbyeOf(agent)?.value.reason).toBe(Goodbye_Reason.REJECTED);
  }
});

test("a stream that does not begin with Hello ends", async () => {
  await using agent = FakeAgent.dial(plane.grpcAddr);
  agent.send({ case: "ack", value: { $typeName: "leveret.v1.Ack", opId: "op" } });
  await using second = await FakeAgent.connect(plane.grpcAddr);
  second.send({
    case: "hello",
    value: { $typeName: "leveret.v1.Hello", ...emptyHello, hostId: second.hostId },
  });
  await until("the second Hello to end it", () => second.ended);
});

const emptyHello = {
  hostname: "",
  version: "",
  bootId: "",
  instance: "",
  arch: "",
  kvm: "direct",
  labels: {},
  inventory: [],
};

test("matrix: stale disconnect after reconnect: the newest stream wins, and the end of the older leaves the host ready", async () => {
  const hostId = HostId.create();
  const older = await FakeAgent.connect(plane.grpcAddr, { hostId });
  await using newer = await FakeAgent.connect(plane.grpcAddr, { hostId });
  expect(newer.epoch).toBe(older.epoch + 1n);
  await until("the older to end", () => older.ended);
  expect(goodbyeOf(older)?.value.reason).toBe(Goodbye_Reason.SUPERSEDED);
  await older.drop();
  const machine = await createMachine(plane);
  newer.runStart(await newer.op(1));
  await untilState(plane, machine.id, "started");
  expect((await hostOf(hostId)).state).toBe("ready");
});

test("a mark-down under an old epoch touches nothing", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { db } = plane.deps.database;
  const old = Number(agent.epoch) - 1;
  expect(await markDisconnected(db, agent.hostId, old)).toBe(false);
  expect(await touchHost(db, agent.hostId, old)).toBe(false);
  expect((await hostOf(agent.hostId)).state).toBe("ready");
});

test("when the stream drops, the host is down at once and its machines are unknown", async () => {
  const agent = await FakeAgent.connect(plane.grpcAddr);
  const live = await createMachine(plane);
  agent.runStart(await agent.op(1));
  await untilState(plane, live.id, "started");
  const ended = await createMachine(plane);
  const second = await agent.op(2);
  agent.runStart(second);
  agent.status(ended.id, { state: MachineState.STOPPED, generation: 1n, incarnation: 1n });
  await untilState(plane, ended.id, "stopped");

  await agent.drop();
  await untilState(plane, live.id, "unknown");
  expect((await hostOf(agent.hostId)).state).toBe("disconnected");
  expect((await machineOf(plane, ended.id)).state).toBe("stopped");
  // Its run may be alive: its room is kept, and nothing new is placed there.
  expect((await hostOf(agent.hostId)).committed.cpus).toBe(1);
  expect(await createMachine(plane)).toMatchObject({
    state: "failed",
    status_reason: "NO_CAPACITY",
  });
});

test("a report of a fenced stream is not stored", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  const op = await agent.op(1);
  agent.runStart(op);
  await untilState(plane, machine.id, "started");
  // Another process has registered the host since.
  const row = { ...registration, id: agent.hostId };
  const epoch = await registerHost(plane.deps.database.db, row);
  expect(epoch).toBe(Number(agent.epoch) + 1);
  const outcome = await storeReport(
    plane.deps,
    { hostId: agent.hostId, epoch: epoch - 1 },
    machine.id,
    { ...failedReport, generation: Number(op.generation) },
  );
  expect(outcome).toBe("fenced");
  agent.status(machine.id, { state: MachineState.FAILED, generation: op.generation });
  await until("the fenced stream to end", () => agent.ended);
  expect((await machineOf(plane, machine.id)).state).toBe("started");
});

const registration = {
  hostname: "other",
  arch: "amd64",
  kvm: "direct",
  version: "0",
  labels: {},
  bootId: "b",
  ownerReplica: null,
  capacityCpus: 4,
  capacityMemoryMib: 4096,
  capacityDiskMib: 20_000,
} as const;

const failedReport = {
  state: "failed",
  incarnation: 1,
  sequence: 99,
  reason: null,
  message: null,
  exit: null,
  imageDigest: null,
  bootUs: null,
  startedAtMs: null,
  stoppedAtMs: null,
} as const;

test("matrix: two agents with one key that take turns put their host into conflict", async () => {
  const hostId = HostId.create();
  const streams: FakeAgent[] = [];
  for (const instance of ["a", "b", "a", "b"])
    streams.push(await FakeAgent.connect(plane.grpcAddr, { hostId, instance }));
  await using newest = streams[3] ?? FakeAgent.dial("");
  await until("the others to end", () => streams.slice(0, 3).every((one) => one.ended));
  expect(newest.ended).toBe(false);
  expect((await hostOf(hostId)).state).toBe("conflict");
  const machine = await createMachine(plane);
  expect(machine.host_id).not.toBe(hostId);

  await plane.deps.database.db.execute(
    `update host_instances set returned_at = now() - interval '11 minutes' where host_id = '${hostId}'`,
  );
  await until("a quiet time to end it", async () => (await hostOf(hostId)).state === "ready");
  expect(newest.ended).toBe(false);
  await newest.drop();
  await until("the host to be down", async () => (await hostOf(hostId)).state === "disconnected");
});

test("one agent that is started again and again is no conflict", async () => {
  const hostId = HostId.create();
  for (const instance of ["a", "b", "c", "d", "d", "d"]) {
    await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId, instance });
    expect((await hostOf(hostId)).state).toBe("ready");
    expect(agent.ended).toBe(false);
  }
});
