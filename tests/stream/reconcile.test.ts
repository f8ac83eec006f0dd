/** What is desired against what the host has, at Hello. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { MachineState, type Op } from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId, MachineId } from "../../proto/ids.ts";
import type { Machine } from "../../proto/rest.ts";
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

/** A host with one started machine, whose stream has dropped. */
async function lostHost(): Promise<{ hostId: string; machine: Machine; op: Op }> {
  const agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  const op = await agent.op(1);
  agent.runStart(op);
  await untilState(plane, machine.id, "started");
  await until("ResultAck", () => agent.acked().length === 1);
  await agent.drop();
  await untilState(plane, machine.id, "unknown");
  return { hostId: agent.hostId, machine, op };
}

const RUNNING = { state: MachineState.STARTED, generation: 1n, incarnation: 1n, sequence: 2n };

test("the inventory brings unknown machines back, and nothing is sent", async () => {
  const { hostId, machine } = await lostHost();
  const inventory = [{ machineId: machine.id, ...RUNNING }];
  await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId, inventory });
  await untilState(plane, machine.id, "started");
  const probe = await createMachine(plane);
  expect((await agent.op(1)).machineId).toBe(probe.id);
});

test("a machine that ended while nobody listened is not started again", async () => {
  const { hostId, machine } = await lostHost();
  const ended = { state: MachineState.STOPPED, exited: true, exitCode: 3, sequence: 3n };
  const inventory = [{ machineId: machine.id, ...RUNNING, ...ended }];
  await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId, inventory });
  const row = await untilState(plane, machine.id, "stopped");
  expect(row).toMatchObject({ desired_state: "stopped", exit_code: 3 });
  const host = (await call(plane, "GET", `/v1/hosts/${hostId}`)).body;
  expect(host).toMatchObject({ committed: { cpus: 0 } });
  expect(agent.ops()).toHaveLength(0);
});

test("matrix: host reboot: a machine that the host has lost is started anew as another run", async () => {
  const { hostId, machine } = await lostHost();
  await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId });
  const op = await agent.op(1);
  expect(op).toMatchObject({
    machineId: machine.id,
    generation: 2n,
    command: { case: "start", value: { incarnation: 2n } },
  });
  // A journal that begins anew begins its sequences anew.
  agent.runStart(op);
  expect((await untilState(plane, machine.id, "started")).instance_id).toBe(`${machine.id}.2`);
});

test("a stop that was asked for while the host was away is carried out", async () => {
  const { hostId, machine } = await lostHost();
  const reply = await call(plane, "POST", `/v1/machines/${machine.id}/stop`);
  expect(reply.body).toMatchObject({ state: "stopping" });
  const inventory = [{ machineId: machine.id, ...RUNNING }];
  await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId, inventory });
  const op = await agent.op(1);
  expect(op).toMatchObject({ generation: 2n, command: { case: "stop" } });
  expect((await machineOf(plane, machine.id)).state).toBe("stopping");
  agent.result(op, {
    status: { state: MachineState.STOPPED, generation: 2n, incarnation: 1n, sequence: 3n },
  });
  await untilState(plane, machine.id, "stopped");
});

test("a machine destroyed while the host was away and gone there is destroyed", async () => {
  const { hostId, machine } = await lostHost();
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
  await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId });
  agent.result(await agent.op(1), { error: ["MACHINE_NOT_FOUND", "never heard of it"] });
  await untilState(plane, machine.id, "destroyed");
});

test("matrix: a machine started behind the back of the control plane is destroyed on its host, and its history says so", async () => {
  const stray = MachineId.create();
  const inventory = [{ machineId: stray, ...RUNNING, generation: 5n }];
  await using agent = await FakeAgent.connect(plane.grpcAddr, { inventory });
  const op = await agent.op(1);
  expect(op).toMatchObject({ machineId: stray, generation: 6n, command: { case: "destroy" } });
  agent.result(op, { status: { state: MachineState.DESTROYED, generation: 6n } });
  await until("ResultAck", () => agent.acked().length === 1);
});

test("a machine that is destroyed here but lives there is destroyed there", async () => {
  const { hostId, machine } = await lostHost();
  const first = await FakeAgent.connect(plane.grpcAddr, { hostId });
  const restart = await first.op(1);
  first.result(restart, { status: { ...RUNNING, generation: 2n, incarnation: 2n, sequence: 1n } });
  await untilState(plane, machine.id, "started");
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
  first.result(await first.op(2), { status: { state: MachineState.DESTROYED, generation: 3n } });
  await untilState(plane, machine.id, "destroyed");
  await first.drop();
  const inventory = [{ machineId: machine.id, ...RUNNING, generation: 3n }];
  await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId, inventory });
  expect(await agent.op(1)).toMatchObject({ generation: 4n, command: { case: "destroy" } });
});

test("an acked op that the host has forgotten is sent again", async () => {
  const hostId = HostId.create();
  const first = await FakeAgent.connect(plane.grpcAddr, { hostId });
  const machine = await createMachine(plane);
  const op = await first.op(1);
  first.ack(op);
  await untilAcked(plane, op.opId);
  await first.drop();
  await using second = await FakeAgent.connect(plane.grpcAddr, { hostId });
  expect((await second.op(1)).opId).toBe(op.opId);
  second.runStart(op);
  await untilState(plane, machine.id, "started");
});

test("matrix: host resized and re-registered: it offers more and keeps what is placed", async () => {
  const { hostId, machine } = await lostHost();
  const capacity = { cpus: 16, memoryMib: 65_536n, diskMib: 99_000n };
  const inventory = [{ machineId: machine.id, ...RUNNING }];
  await using agent = await FakeAgent.connect(plane.grpcAddr, { hostId, inventory, capacity });
  await untilState(plane, machine.id, "started");
  expect((await call(plane, "GET", `/v1/hosts/${agent.hostId}`)).body).toMatchObject({
    capacity: { cpus: 16, memory_mb: 65_536 },
    committed: { cpus: 1, memory_mb: 256, disk_mb: 1024 },
  });
});

test("matrix: partition longer than lost_after, then heal: what was given up is fenced", async () => {
  await using impatient = await startPlane({ config: { lostAfterS: 0 } });
  const agent = await FakeAgent.connect(impatient.grpcAddr);
  const { hostId } = agent;
  const machine = await createMachine(impatient);
  agent.runStart(await agent.op(1));
  await untilState(impatient, machine.id, "started");
  await agent.drop();
  await until("the host to be lost", async () => {
    const { body } = await call(impatient, "GET", `/v1/hosts/${hostId}`);
    return (body as { state: string }).state === "lost";
  });
  await untilState(impatient, machine.id, "unknown");
  const given = await call(impatient, "DELETE", `/v1/machines/${machine.id}?force=true`);
  expect(given.body).toMatchObject({ state: "destroyed" });
  // The host was alone, not dead: what it still runs must end before anything else does there.
  const inventory = [{ machineId: machine.id, ...RUNNING }];
  await using healed = await FakeAgent.connect(impatient.grpcAddr, { hostId, inventory });
  const op = await healed.op(1);
  expect(op).toMatchObject({ machineId: machine.id, command: { case: "destroy" } });
  expect(healed.epoch).toBeGreaterThan(agent.epoch);
  expect(await machineOf(impatient, machine.id)).toMatchObject({ state: "destroyed" });
});
