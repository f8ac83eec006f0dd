import { afterEach, beforeEach, describe, expect, test, setDefaultTimeout } from "bun:test";
import { type Clock, systemClock } from "../../lib/clock.ts";
import { Goodbye_Reason, MachineState, OpSchema } from "../../proto/gen/leveret/v1/agent_pb.js";
import { create } from "@bufbuild/protobuf";
import { MachineId, OpId } from "../../proto/ids.ts";
import { FakeHub } from "../kit/fake-hub.ts";
import { failure } from "../kit/failure.ts";
import { argv, destroyOp, startOp, stopOp } from "../kit/ops.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(30_000);

describe("the agent's link", () => {
  let hub: FakeHub;
  let agent: TestAgent;
  let id: MachineId;
  beforeEach(async () => {
    hub = await FakeHub.start();
    agent = await TestAgent.start(hub.addr);
    id = MachineId.create();
  });
  afterEach(async () => {
    await agent[Symbol.asyncDispose]();
    await hub[Symbol.asyncDispose]();
  });

  const text = (chunks: { data: Uint8Array }[]): string =>
    chunks.map(({ data }) => Buffer.from(data).toString()).join("");

  test("says Hello with what it is, then heartbeats", async () => {
    const stream = await hub.stream();
    expect(stream.hello).toMatchObject({
      hostId: agent.agent.hostId,
      hostname: "test-host",
      arch: "amd64",
      kvm: "direct",
      capacity: { cpus: 8, memoryMib: 4_096n, diskMib: 65_536n },
      inventory: [],
    });
    await until("a heartbeat", () => stream.has("heartbeat"));
  });

  test("acknowledges an op, reports each state and then the result", async () => {
    const stream = await hub.stream();
    const op = startOp(id, 1);
    stream.send({ case: "op", value: op });
    await until("the result", () => stream.results.length === 1);
    const kinds = stream.received
      .map((frame) => frame.case)
      .filter((kind) => kind !== "heartbeat" && kind !== "images");
    expect(kinds[1]).toBe("ack");
    expect(kinds.at(-1)).toBe("result");
    expect(stream.statuses.map(({ state }) => state)).toContain(MachineState.STARTING);
    expect(stream.results[0]).toMatchObject({ opId: op.opId, machineId: id, errorReason: "" });
    expect(stream.received.filter((frame) => frame.case === "progress").length).toBeGreaterThan(0);
  });

  test("matrix: lost result: sends it after every reconnect until it is acknowledged", async () => {
    const first = await hub.stream();
    const op = startOp(id, 1);
    first.send({ case: "op", value: op });
    await until("the result", () => first.results.length === 1);
    first.drop();
    const second = await hub.stream();
    await until("the result again", () => second.results.length === 1);
    expect(second.hello?.inventory).toMatchObject([{ machineId: id, state: MachineState.STARTED }]);
    second.send({ case: "resultAck", value: { opId: op.opId } });
    await until("it is forgotten", () => agent.agent.fleet.unackedResults().length === 0);
    second.drop();
    const third = await hub.stream();
    await until("a heartbeat", () => third.has("heartbeat"));
    expect(third.results).toEqual([]);
  });

  test("a duplicated op is one run, answered twice", async () => {
    const stream = await hub.stream();
    const op = startOp(id, 1);
    stream.send({ case: "op", value: op });
    stream.send({ case: "op", value: op });
    await until("the result", () => stream.results.length >= 1);
    stream.send({ case: "op", value: op });
    await until("it is answered again", () => stream.results.length >= 2);
    expect(agent.driver.begun).toHaveLength(1);
  });

  test("matrix: stale stream: refuses frames of an older epoch", async () => {
    (await hub.stream()).drop();
    const stream = await hub.stream();
    stream.send({ case: "op", value: startOp(id, 1) }, stream.epoch - 1n);
    const good = stopOp(MachineId.create(), 1);
    stream.send({ case: "op", value: good });
    await until("the good op's result", () => stream.results.length === 1);
    expect(stream.results[0]?.opId).toBe(good.opId);
    expect(agent.driver.begun).toEqual([]);
  });

  test("an op it does not know is answered, and the stream goes on", async () => {
    const stream = await hub.stream();
    const unknown = create(OpSchema, { opId: OpId.create(), machineId: id, generation: 1n });
    stream.send({ case: "op", value: unknown });
    stream.send({
      case: "op",
      value: create(OpSchema, { ...unknown, opId: "x", machineId: "../x" }),
    });
    await until("both results", () => stream.results.length === 2);
    expect(stream.results.map(({ errorReason }) => errorReason).toSorted()).toEqual([
      "BAD_REQUEST",
      "UNIMPLEMENTED",
    ]);
    expect(stream.over).toBe(false);
  });

  test("serves logs to their end, and from a sequence on", async () => {
    const stream = await hub.stream();
    stream.send({ case: "op", value: startOp(id, 1, argv("count", "50")) });
    const followed = await hub.logs(id, { follow: true });
    expect(followed.end).toMatchObject({ errorReason: "" });
    const lines = Array.from({ length: 50 }, (_, line) => `line ${line}\n`).join("");
    expect(text(followed.chunks)).toBe(lines);
    expect(followed.chunks.map(({ sequence }) => sequence)).toEqual(
      Array.from({ length: 50 }, (_, line) => BigInt(line + 1)),
    );
    const rest = await hub.logs(id, { after: 48n });
    expect(text(rest.chunks)).toBe("line 48\nline 49\n");
  });

  test("matrix: a slow reader stops the agent's session where its credit ends, and nothing else", async () => {
    const stream = await hub.stream();
    stream.send({ case: "op", value: startOp(id, 1, argv("count", "300")) });
    await until("the run's end", () =>
      stream.statuses.some(({ state }) => state === MachineState.STOPPED),
    );
    const sessionId = hub.openLogs(stream, id, { credit: 100n });
    const session = await until("the session", () => hub.sessions.get(sessionId));
    const sent = (): number => session.chunks.reduce((sum, { data }) => sum + data.length, 0);
    await until("the credit to be used", () => sent() >= 100);
    const beats = stream.received.length;
    await until("heartbeats meanwhile", () => stream.received.length > beats + 1);
    // No more than the piece that the last byte of credit was good for.
    expect(sent()).toBeLessThan(100 + 64);
    expect(session.end).toBeNull();
    session.grant(1_000n);
    await until("more", () => sent() >= 1_000);
    session.grant(1_000_000n);
    await until("the end", () => session.end);
    expect(text(session.chunks)).toEndWith("line 299\n");
  });

  test("following waits for a start that is still under way", async () => {
    const stream = await hub.stream();
    stream.send({ case: "op", value: startOp(id, 1, { image: "slow", ...argv("echo", "late") }) });
    await until("the image is awaited", () => agent.images.waiting === 1);
    const logs = hub.logs(id, { follow: true });
    agent.images.release();
    expect(text((await logs).chunks)).toBe("late\n");
  });

  test("a log session for a machine that is not here says so", async () => {
    await hub.stream();
    expect((await hub.logs(id)).end).toMatchObject({ errorReason: "MACHINE_NOT_FOUND" });
  });

  test("a follower does not hold up the control stream, and ends with the machine", async () => {
    const stream = await hub.stream();
    stream.send({ case: "op", value: startOp(id, 1, argv("count")) });
    const sessionId = hub.openLogs(stream, id, { follow: true });
    await until("lines", () => (hub.sessions.get(sessionId)?.chunks.length ?? 0) > 0);
    stream.send({ case: "op", value: destroyOp(id, 2) });
    await until("the result", () => stream.results.length === 2);
    await until("the session's end", () => hub.sessions.get(sessionId)?.end?.errorReason === "");
  });

  test("a second agent on the same directory is refused, naming the first", async () => {
    const error = await failure(TestAgent.start(hub.addr, { config: { dir: agent.dir } }));
    expect(error.reason).toBe("CONFIG_INVALID");
    expect(error.message).toContain(`in use by the agent with pid ${process.pid}`);
  });
});

describe("a stream that drops", () => {
  for (const kind of ["hello", "ack", "status", "progress", "result", "heartbeat"] as const)
    test(`at the first ${kind} loses nothing and doubles nothing`, async () => {
      await using hub = await FakeHub.start();
      const op = startOp(MachineId.create(), 1);
      let dropped = false;
      hub.onFrame = (stream, frame) => {
        if (!dropped && frame.case === kind) {
          dropped = true;
          stream.drop();
        } else if (frame.case === "hello") stream.send({ case: "op", value: op });
      };
      await using agent = await TestAgent.start(hub.addr);
      await until(
        "the result on a later stream",
        () => dropped && hub.streams.at(-1)?.results.some(({ opId }) => opId === op.opId),
      );
      expect(agent.driver.begun).toHaveLength(1);
      expect(agent.driver.running).toBe(1);
    });
});

describe("Goodbye", () => {
  const HEARTBEAT_MS = 1_000;

  /** Sleeps are written down, but for those between heartbeats, and end almost at once. */
  class RecordedClock implements Clock {
    readonly slept: number[] = [];
    now(): number {
      return systemClock.now();
    }
    sleep(ms: number, signal?: AbortSignal): Promise<void> {
      if (ms !== HEARTBEAT_MS) this.slept.push(ms);
      return systemClock.sleep(1, signal);
    }
  }

  test("SHUTDOWN: comes back after what the control plane asked for", async () => {
    await using hub = await FakeHub.start();
    const clock = new RecordedClock();
    await using _agent = await TestAgent.start(hub.addr, { clock });
    const first = await hub.stream();
    first.send({
      case: "goodbye",
      value: { reason: Goodbye_Reason.SHUTDOWN, reconnectAfterMs: 700 },
    });
    await until("a second stream", () => hub.streams.length === 2);
    expect(clock.slept[0]).toBeGreaterThanOrEqual(700);
  });

  test("SUPERSEDED: comes back, but slowly", async () => {
    await using hub = await FakeHub.start();
    const clock = new RecordedClock();
    await using _agent = await TestAgent.start(hub.addr, { clock });
    (await hub.stream()).send({ case: "goodbye", value: { reason: Goodbye_Reason.SUPERSEDED } });
    await until("a second stream", () => hub.streams.length === 2);
    expect(clock.slept[0]).toBeGreaterThanOrEqual(15_000);
  });

  test("REJECTED: gives up with the control plane's words", async () => {
    await using hub = await FakeHub.start();
    await using agent = await TestAgent.start(hub.addr);
    (await hub.stream()).send({
      case: "goodbye",
      value: { reason: Goodbye_Reason.REJECTED, message: "unknown host" },
    });
    const error = await failure(agent.agent.finished);
    expect(error.message).toBe("The control plane refused this host: unknown host");
  });
});
