/** Ops are sent at least once; whatever is lost or repeated, each takes effect once. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { MachineState, type Op } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Machine, MachineEventBody } from "../../proto/rest.ts";
import type { ControlPlane } from "../../cp/server.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, machineOf, startPlane, untilAcked, untilState } from "./kit/plane.ts";

setDefaultTimeout(30_000);

let plane: ControlPlane;
beforeAll(async () => {
  plane = await startPlane();
});
afterAll(() => plane[Symbol.asyncDispose]());

async function startedMachine(agent: FakeAgent): Promise<{ machine: Machine; op: Op }> {
  const before = agent.ops().length;
  const machine = await createMachine(plane);
  const op = await agent.op(before + 1);
  agent.runStart(op);
  await untilState(plane, machine.id, "started");
  return { machine, op };
}

async function eventsOf(id: string): Promise<MachineEventBody[]> {
  return (await call(plane, "GET", `/v1/machines/${id}/events`)).body as MachineEventBody[];
}

test("matrix: lost op or ack: it is sent again on the next stream, the same one", async () => {
  const first = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  const lost = await first.op(1);
  await first.drop();
  await using second = await FakeAgent.connect(plane.grpcAddr, { hostId: first.hostId });
  const again = await second.op(1);
  expect(again.opId).toBe(lost.opId);
  expect(again.generation).toBe(lost.generation);
  expect(again.command).toEqual(lost.command);
  second.runStart(again);
  await untilState(plane, machine.id, "started");
  expect(second.ops()).toHaveLength(1);
});

test("an op that was acked is not sent again, and its late Result counts", async () => {
  const first = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  const op = await first.op(1);
  const status = { state: MachineState.STARTING, generation: 1n, incarnation: 1n };
  first.ack(op);
  first.status(machine.id, status);
  first.result({ ...op, opId: "op_marker" });
  await until("what was sent to be handled", () => first.acked().includes("op_marker"));
  await untilAcked(plane, op.opId);
  await first.drop();
  await untilState(plane, machine.id, "unknown");

  const { hostId } = first;
  const inventory = [{ machineId: machine.id, ...status, sequence: 2n }];
  await using second = await FakeAgent.connect(plane.grpcAddr, { hostId, inventory });
  await untilState(plane, machine.id, "starting");
  second.result(op, {
    status: { ...status, state: MachineState.STARTED, sequence: 3n },
  });
  await untilState(plane, machine.id, "started");
  expect(second.ops()).toHaveLength(0);
});

test("matrix: duplicate: a repeated Result is acknowledged again and changes nothing", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { machine, op } = await startedMachine(agent);
  await until("the first ResultAck", () => agent.acked().length === 1);
  const before = await eventsOf(machine.id);
  agent.result(op, { error: ["VMM_FAULT", "from the past"] });
  await until("the second ResultAck", () => agent.acked().length === 2);
  expect(await machineOf(plane, machine.id)).toMatchObject({ state: "started" });
  expect(await eventsOf(machine.id)).toEqual(before);
});

test("a Result of an op nobody knows is acknowledged, so that it ends", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { op } = await startedMachine(agent);
  agent.result({ ...op, opId: "op_unknown", machineId: "mch_unknown" });
  await until("ResultAck", () => agent.acked().includes("op_unknown"));
});

test("matrix: reorder: reports that arrive late or twice do not turn the state back", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { machine } = await startedMachine(agent);
  agent.status(machine.id, { state: MachineState.STOPPED, generation: 1n, sequence: 9n });
  await untilState(plane, machine.id, "stopped");
  const before = await eventsOf(machine.id);
  agent.status(machine.id, { state: MachineState.STARTED, generation: 1n, sequence: 8n });
  agent.status(machine.id, { state: MachineState.STOPPED, generation: 1n, sequence: 9n });
  agent.result({ ...(await agent.op(1)), opId: "op_marker" });
  await until("what was sent to be handled", () => agent.acked().includes("op_marker"));
  expect((await machineOf(plane, machine.id)).state).toBe("stopped");
  expect(await eventsOf(machine.id)).toEqual(before);
});

test("stop and start in a row: the last word holds, and the older run cannot undo it", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { machine } = await startedMachine(agent);
  const stopped = await call(plane, "POST", `/v1/machines/${machine.id}/stop`, { timeout: 3 });
  expect(stopped.body).toMatchObject({ state: "stopping", desired_state: "stopped" });
  const stop = await agent.op(2);
  expect(stop.command).toEqual(
    expect.objectContaining({ case: "stop", value: expect.objectContaining({ timeoutMs: 3_000 }) }),
  );
  const started = await call(plane, "POST", `/v1/machines/${machine.id}/start`);
  expect(started).toMatchObject({ status: 200, body: { state: "starting" } });
  const start = await agent.op(3);
  expect(start).toMatchObject({ generation: 3n, command: { value: { incarnation: 2n } } });
  // Only now the host tells of the first run's end.
  agent.result(stop, { status: { state: MachineState.STOPPED, generation: 2n, incarnation: 1n } });
  await until("ResultAck", () => agent.acked().includes(stop.opId));
  expect(await machineOf(plane, machine.id)).toMatchObject({
    state: "starting",
    desired_state: "started",
  });
  agent.runStart(start);
  await untilState(plane, machine.id, "started");
  const host = (await call(plane, "GET", `/v1/hosts/${agent.hostId}`)).body;
  expect(host).toMatchObject({ committed: { cpus: 1 } });
});

test("matrix: 100 alternating start/stop: they leave the last one's state and its capacity", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { machine } = await startedMachine(agent);
  for (let round = 0; round < 50; round += 1) {
    await call(plane, "POST", `/v1/machines/${machine.id}/stop`);
    await call(plane, "POST", `/v1/machines/${machine.id}/start`);
  }
  const newest = await until("the newest op", () => {
    const op = agent.ops().at(-1);
    return op?.generation === 101n ? op : null;
  });
  for (const op of agent.ops().slice(1, -1))
    agent.result(op, { error: ["SUPERSEDED", "a newer op was seen"] });
  agent.runStart(newest);
  await untilState(plane, machine.id, "started");
  const host = (await call(plane, "GET", `/v1/hosts/${agent.hostId}`)).body;
  expect(host).toMatchObject({ committed: { cpus: 1, memory_mb: 256, disk_mb: 1024 } });
});

test("stop and destroy of a machine the host does not know come to an end", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { machine } = await startedMachine(agent);
  await call(plane, "POST", `/v1/machines/${machine.id}/stop`);
  agent.result(await agent.op(2), { error: ["MACHINE_NOT_FOUND", "no such machine"] });
  await untilState(plane, machine.id, "stopped");
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
  agent.result(await agent.op(3), { error: ["MACHINE_NOT_FOUND", "no such machine"] });
  await untilState(plane, machine.id, "destroyed");
});

test("a destroy that failed is asked for again", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const { machine } = await startedMachine(agent);
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
  agent.result(await agent.op(2), { error: ["INTERNAL", "cannot remove a disk"] });
  const again = await agent.op(3);
  expect(again).toMatchObject({ generation: 3n, command: { case: "destroy" } });
  agent.result(again, { status: { state: MachineState.DESTROYED, generation: 3n } });
  await untilState(plane, machine.id, "destroyed");
});

test("concurrent creates never share the last room", async () => {
  const hello = { capacity: { cpus: 8, memoryMib: 1024n, diskMib: 100_000n } };
  await using agent = await FakeAgent.connect(plane.grpcAddr, hello);
  const made = await Promise.all(
    Array.from({ length: 12 }, () => createMachine(plane, { guest: { memory_mb: 200 } })),
  );
  expect(made.filter((machine) => machine.state === "starting")).toHaveLength(5);
  const refused = made.filter((machine) => machine.state === "failed");
  expect(refused).toHaveLength(7);
  expect(refused[0]?.status_message).toContain("No host has room for 200 MiB");
  const host = (await call(plane, "GET", `/v1/hosts/${agent.hostId}`)).body;
  expect(host).toMatchObject({ committed: { cpus: 5, memory_mb: 1000 } });
  for (const { id } of made) await call(plane, "DELETE", `/v1/machines/${id}`);
});
