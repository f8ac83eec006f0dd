/** Output as one sequence, whatever happens to the host's link while it is read. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  LogChunk_Stream,
  MachineState,
  type SessionFrame,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import type { LogLine, Machine } from "../../proto/rest.ts";
import type { ControlPlane } from "../../cp/server.ts";
import { AUTHORIZATION } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(30_000);

let plane: ControlPlane;
beforeAll(async () => {
  plane = await startPlane({ sessionOpenTimeoutMs: 300 });
});
afterAll(() => plane[Symbol.asyncDispose]());

type Frame = SessionFrame["frame"];

function chunk(sequence: number): Frame {
  const data = new TextEncoder().encode(`${sequence};`);
  return {
    case: "log",
    value: {
      $typeName: "leveret.v1.LogChunk",
      sequence: BigInt(sequence),
      timeMs: 1n,
      stream: LogChunk_Stream.STDERR,
      data,
      incarnation: 1n,
    },
  };
}

function end(errorReason = "", errorMessage = ""): Frame {
  return { case: "end", value: { $typeName: "leveret.v1.SessionEnd", errorReason, errorMessage } };
}

const RUNNING = { state: MachineState.STARTED, generation: 1n, incarnation: 1n, sequence: 2n };

async function started(agent: FakeAgent): Promise<Machine> {
  const before = agent.ops().length;
  const machine = await createMachine(plane);
  agent.runStart(await agent.op(before + 1));
  return untilState(plane, machine.id, "started");
}

/** Reads the stream in the background; `text` grows. */
function read(path: string, headers: Record<string, string> = {}) {
  const abort = new AbortController();
  const state = { text: "", ended: false, abort };
  void (async () => {
    try {
      const response = await fetch(`${plane.httpUrl}${path}`, {
        headers: { ...AUTHORIZATION, ...headers },
        signal: abort.signal,
      });
      const decoder = new TextDecoder();
      for await (const bytes of response.body ?? []) state.text += decoder.decode(bytes);
    } catch {
      // Aborted by the test.
    }
    state.ended = true;
  })();
  return state;
}

function output(text: string): string {
  return [...text.matchAll(/event: log\ndata: (.*)/g)]
    .map((match) => atob((JSON.parse(match[1] ?? "") as LogLine).data))
    .join("");
}

test("a link that drops while logs are followed loses no line and repeats none", async () => {
  const first = await FakeAgent.connect(plane.grpcAddr);
  const { hostId } = first;
  const machine = await started(first);
  const reader = read(`/v1/machines/${machine.id}/logs?follow=true`);
  const opened = await until("OpenSession", () => first.sessions()[0]);
  await first.attach(opened.sessionId, [chunk(1), chunk(2)], { breakOff: true });
  await until("two lines", () => output(reader.text) === "1;2;");
  await first.drop();
  expect(reader.ended).toBe(false);

  const inventory = [{ machineId: machine.id, ...RUNNING }];
  await using second = await FakeAgent.connect(plane.grpcAddr, { hostId, inventory });
  const again = await until("OpenSession", () => second.sessions()[0]);
  expect(again.kind).toMatchObject({ value: { afterSequence: 2n, follow: true } });
  await second.attach(again.sessionId, [chunk(2), chunk(3), end()]);
  await until("the end", () => reader.ended);
  expect(output(reader.text)).toBe("1;2;3;");
  expect(reader.text).toEndWith("event: end\ndata: {}\n\n");
});

test("logs of a host that is away are refused, unless they are followed", async () => {
  const agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  await agent.drop();
  await untilState(plane, machine.id, "unknown");
  const reader = read(`/v1/machines/${machine.id}/logs`);
  await until("the end", () => reader.ended);
  expect(reader.text).toContain(
    'event: error\ndata: {"error":{"code":503,"reason":"HOST_UNAVAILABLE"',
  );
});

test("a client that reconnects goes on after the last line it has", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  const reader = read(`/v1/machines/${machine.id}/logs?after=3`, { "last-event-id": "7" });
  const opened = await until("OpenSession", () => agent.sessions()[0]);
  expect(opened.kind).toMatchObject({ value: { afterSequence: 7n, follow: false } });
  await agent.attach(opened.sessionId, [chunk(8), end()]);
  await until("the end", () => reader.ended);
  expect(output(reader.text)).toBe("8;");
});

test("an error of the host is the reader's", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  const reader = read(`/v1/machines/${machine.id}/logs`);
  const opened = await until("OpenSession", () => agent.sessions()[0]);
  await agent.attach(opened.sessionId, [end("DISK_FULL", "no room for logs")]);
  await until("the end", () => reader.ended);
  expect(reader.text).toContain('"reason":"DISK_FULL","message":"no room for logs"');
});

test("a host that does not open the session in time is reported", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  const reader = read(`/v1/machines/${machine.id}/logs`);
  await until("the end", () => reader.ended);
  expect(reader.text).toContain("did not open the session within 0.3 s");
});

test("an Attach that nobody asked for, or under another epoch, is refused", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  const refused = await agent.attach("ses_unknown", []).catch(String);
  expect(refused).toContain("No session");
  const reader = read(`/v1/machines/${machine.id}/logs`);
  const opened = await until("OpenSession", () => agent.sessions()[0]);
  const epoch = agent.epoch + 1n;
  const fenced = await agent.attach(opened.sessionId, [], { epoch }).catch(String);
  expect(fenced).toContain("No session");
  await until("the end", () => reader.ended);
});

test("a reader that goes away ends the session and leaves no subscription", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await started(agent);
  const reader = read(`/v1/machines/${machine.id}/logs?follow=true`);
  const opened = await until("OpenSession", () => agent.sessions()[0]);
  // attach returns when the hub says that the session is over.
  const attached = agent.attach(opened.sessionId, [chunk(1)]);
  await until("a line", () => output(reader.text) === "1;");
  reader.abort.abort();
  await attached;
  await until("the subscriptions to end", () => plane.deps.changes.size === 0);
});

test("a machine without a host has no output, and a follower is told at once", async () => {
  const machine = await createMachine(plane, { guest: { memory_mb: 65_000 } });
  expect(machine.state).toBe("failed");
  const reader = read(`/v1/machines/${machine.id}/logs?follow=true`);
  await until("the end", () => reader.ended);
  expect(reader.text).toEndWith("event: end\ndata: {}\n\n");
});

test("following a machine that the host does not know yet waits for it", async () => {
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const machine = await createMachine(plane);
  const reader = read(`/v1/machines/${machine.id}/logs?follow=true`);
  const early = await until("OpenSession", () => agent.sessions()[0]);
  await agent.attach(early.sessionId, [end("MACHINE_NOT_FOUND", "not yet")]);
  agent.runStart(await agent.op(1));
  const opened = await until("another OpenSession", () => agent.sessions()[1]);
  await agent.attach(opened.sessionId, [chunk(1), end()]);
  await until("the end", () => reader.ended);
  expect(output(reader.text)).toBe("1;");
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
});
