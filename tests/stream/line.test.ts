/** The line from a request to a machine's output, with a scripted agent at its end. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { LogChunk_Stream, MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { LogLine, Machine } from "../../proto/rest.ts";
import type { ControlPlane } from "../../cp/server.ts";
import { AUTHORIZATION } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, machineOf, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(30_000);

let plane: ControlPlane;
beforeAll(async () => {
  plane = await startPlane();
});
afterAll(() => plane[Symbol.asyncDispose]());

test("a machine is created, sent, started, awaited, read and ends", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane, { name: "line" });
  expect(machine).toMatchObject({ state: "starting", desired_state: "started" });
  const waiting = call(plane, "GET", `/v1/machines/line/wait?state=started`);
  const op = await agent.op(1);
  expect(op).toMatchObject({ machineId: machine.id, generation: 1n });
  expect(op.command).toMatchObject({
    case: "start",
    value: { incarnation: 1n, spec: { image: "busybox", hostname: "line", memoryMib: 256n } },
  });
  agent.runStart(op);
  expect(await waiting).toMatchObject({ status: 200, body: { state: "started" } });
  await until("ResultAck", () => agent.acked().includes(op.opId));

  const response = await fetch(`${plane.httpUrl}/v1/machines/line/logs?follow=true`, {
    headers: AUTHORIZATION,
  });
  const { sessionId, kind } = await until("OpenSession", () => agent.sessions()[0]);
  expect(kind).toMatchObject({ case: "logs", value: { follow: true, afterSequence: 0n } });
  await agent.attach(sessionId, [
    chunk(1n, "hello "),
    chunk(2n, "world"),
    {
      case: "end",
      value: { $typeName: "leveret.v1.SessionEnd", errorReason: "", errorMessage: "" },
    },
  ]);
  const text = await response.text();
  const lines = [...text.matchAll(/event: log\ndata: (.*)/g)].map(
    (match) => JSON.parse(match[1] ?? "") as LogLine,
  );
  expect(lines.map((line) => atob(line.data)).join("")).toBe("hello world");
  expect(lines[0]?.instance_id).toBe(`${machine.id}.1`);
  expect(text).toEndWith("event: end\ndata: {}\n\n");

  agent.status(machine.id, {
    state: MachineState.STOPPED,
    generation: 1n,
    incarnation: 1n,
    exited: true,
    exitCode: 7,
  });
  const ended = await untilState(plane, machine.id, "stopped");
  expect(ended).toMatchObject({ exit_code: 7, desired_state: "stopped" });
  const { body } = await call(plane, "GET", "/v1/hosts");
  expect(body).toMatchObject([
    { state: "ready", committed: { cpus: 0, memory_mb: 0 }, machines: 1 },
  ]);

  const gone = await call(plane, "DELETE", "/v1/machines/line");
  expect(gone.body).toMatchObject({ state: "destroying" });
  const destroy = await agent.op(2);
  expect(destroy).toMatchObject({ generation: 2n, command: { case: "destroy" } });
  agent.result(destroy, { status: { state: MachineState.DESTROYED, generation: 2n } });
  await untilState(plane, machine.id, "destroyed");
  const after = (await call(plane, "GET", "/v1/hosts")).body;
  expect(after).toMatchObject([{ committed: { cpus: 0, memory_mb: 0, disk_mb: 0 }, machines: 0 }]);
});

test("a wait sees a run that is over before anybody looks", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  const waiting = call(plane, "GET", `/v1/machines/${machine.id}/wait?state=started`);
  const op = await agent.op(1);
  await until("the wait to listen", () => plane.deps.changes.size > 0);
  agent.runStart(op);
  agent.status(machine.id, { state: MachineState.STOPPED, generation: 1n, incarnation: 1n });
  expect((await waiting).status).toBe(200);
  await untilState(plane, machine.id, "stopped");
  expect(plane.deps.changes.size).toBe(0);
});

test("a failed start says why, frees its room and ends a wait at once", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  const waiting = call(plane, "GET", `/v1/machines/${machine.id}/wait?state=started`);
  agent.result(await agent.op(1), { error: ["IMAGE_NOT_FOUND", "No such image"] });
  expect(await waiting).toMatchObject({
    status: 409,
    body: { error: { reason: "STATE_CONFLICT" } },
  });
  const failed: Machine = await machineOf(plane, machine.id);
  expect(failed).toMatchObject({
    state: "failed",
    status_reason: "IMAGE_NOT_FOUND",
    status_message: "No such image",
    desired_state: "stopped",
  });
  expect((await call(plane, "GET", `/v1/hosts/${agent.hostId}`)).body).toMatchObject({
    committed: { cpus: 0, memory_mb: 0 },
  });
});

function chunk(sequence: bigint, text: string) {
  return {
    case: "log",
    value: {
      $typeName: "leveret.v1.LogChunk",
      sequence,
      timeMs: 1n,
      stream: LogChunk_Stream.STDOUT,
      data: new TextEncoder().encode(text),
      incarnation: 1n,
    },
  } as const;
}
