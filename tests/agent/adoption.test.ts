/**
 * Agents and VMMs as real processes: the agent is killed with SIGKILL, the VMMs go on,
 * the next agent finds them by pid, start time and handshake.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listProcesses } from "../../agent/runtime/proc.ts";
import { MachineState, type MachineStatus, type Op } from "../../proto/gen/leveret/v1/agent_pb.js";
import { MachineId } from "../../proto/ids.ts";
import type { VmmStatus } from "../../proto/vmm.ts";
import { FakeHub, type HubStream } from "../kit/fake-hub.ts";
import { argv, destroyOp, startOp, stopOp } from "../kit/ops.ts";
import { until } from "../kit/until.ts";

const TIMEOUT_MS = 60_000;
const CHILD = join(import.meta.dir, "..", "kit", "agent-child.ts");

describe("an agent that is killed", () => {
  let hub: FakeHub;
  let dir = "";
  let id: MachineId;
  let child: Bun.Subprocess<"ignore", "pipe", "inherit">;

  async function spawnAgent(): Promise<HubStream> {
    const before = hub.streams.length;
    child = Bun.spawn({
      cmd: [process.execPath, CHILD, hub.addr, dir],
      stdio: ["ignore", "pipe", "inherit"],
    });
    await until("the agent's stream", () => hub.streams.length > before);
    return hub.stream();
  }

  async function killAgent(): Promise<void> {
    child.kill("SIGKILL");
    await child.exited;
  }

  const vmms = (): number[] =>
    listProcesses()
      .filter(({ argv: words }) => words.at(-1)?.startsWith(`${dir}/machines/`))
      .map(({ pid }) => pid);

  const statusOf = (stream: HubStream): MachineStatus | undefined =>
    [...(stream.hello?.inventory ?? []), ...stream.statuses]
      .filter((status) => status.machineId === id)
      .at(-1);

  async function send(stream: HubStream, op: Op): Promise<void> {
    stream.send({ case: "op", value: op });
    await until("the result", () => stream.results.some(({ opId }) => opId === op.opId));
  }

  beforeEach(async () => {
    hub = await FakeHub.start();
    dir = mkdtempSync(join(tmpdir(), "lev-adopt-"));
    id = MachineId.create();
  });
  afterEach(async () => {
    await killAgent();
    for (const pid of vmms()) process.kill(pid, "SIGKILL");
    await hub[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  });

  test(
    "matrix: agent SIGKILL: leaves its machine running; the next one adopts it and has every line once",
    async () => {
      const first = await spawnAgent();
      await send(first, startOp(id, 1, argv("count", "600")));
      const [pid] = vmms();
      await killAgent();
      expect(vmms()).toEqual([pid ?? 0]);
      const second = await spawnAgent();
      expect(statusOf(second)?.incarnation).toBe(1n);
      const { chunks } = await hub.logs(id, { follow: true });
      const text = chunks.map(({ data }) => Buffer.from(data).toString()).join("");
      expect(text).toBe(Array.from({ length: 600 }, (_, line) => `line ${line}\n`).join(""));
      await until("it has stopped", () => statusOf(second)?.state === MachineState.STOPPED);
      expect(statusOf(second)).toMatchObject({ exited: true, exitCode: 0, reason: "" });
    },
    TIMEOUT_MS,
  );

  test(
    "stops and destroys a machine that it has adopted, and leaves nothing",
    async () => {
      await send(await spawnAgent(), startOp(id, 1, argv("idle")));
      await killAgent();
      const second = await spawnAgent();
      expect(statusOf(second)?.state).toBe(MachineState.STARTED);
      await send(second, stopOp(id, 2));
      expect(statusOf(second)).toMatchObject({ state: MachineState.STOPPED, exitCode: 143 });
      await send(second, startOp(id, 3, argv("idle")));
      await killAgent();
      const third = await spawnAgent();
      await send(third, destroyOp(id, 4));
      expect(vmms()).toEqual([]);
      expect(readdirSync(join(dir, "machines"))).toEqual([]);
    },
    TIMEOUT_MS,
  );

  test(
    "learns from status.json how a machine ended meanwhile",
    async () => {
      await send(await spawnAgent(), startOp(id, 1, argv("idle")));
      await killAgent();
      for (const pid of vmms()) process.kill(pid, "SIGTERM");
      await until("the VMM has ended", () => vmms().length === 0);
      const second = await spawnAgent();
      expect(statusOf(second)).toMatchObject({ state: MachineState.STOPPED, exitCode: 137 });
    },
    TIMEOUT_MS,
  );

  test(
    "says so when a VMM was killed without a word",
    async () => {
      await send(await spawnAgent(), startOp(id, 1, argv("idle")));
      await killAgent();
      for (const pid of vmms()) process.kill(pid, "SIGKILL");
      await until("the VMM has ended", () => vmms().length === 0);
      const second = await spawnAgent();
      expect(statusOf(second)).toMatchObject({ state: MachineState.FAILED, reason: "VMM_FAULT" });
    },
    TIMEOUT_MS,
  );

  test(
    "a VMM that is killed under a living agent makes the machine fail at once",
    async () => {
      const stream = await spawnAgent();
      await send(stream, startOp(id, 1, argv("idle")));
      for (const pid of vmms()) process.kill(pid, "SIGKILL");
      await until("it has failed", () => statusOf(stream)?.state === MachineState.FAILED);
      expect(statusOf(stream)?.message).toBe("The VMM process ended without a word");
      expect(existsSync(join(dir, "machines", id, "control.sock"))).toBe(false);
    },
    TIMEOUT_MS,
  );

  test(
    "a VMM that refuses its spec gives the reason of its last line",
    async () => {
      const stream = await spawnAgent();
      await send(stream, startOp(id, 1, argv("crash")));
      expect(stream.results.at(-1)).toMatchObject({
        errorReason: "KERNEL_INVALID",
        errorMessage: "It is not a kernel",
        status: { state: MachineState.FAILED },
      });
    },
    TIMEOUT_MS,
  );

  for (const kind of ["ack", "progress", "status"] as const)
    test(
      `at its first ${kind}: one VMM in the end, and the result arrives`,
      async () => {
        const op = startOp(id, 1, argv("idle"));
        const { promise: killed, resolve } = Promise.withResolvers<void>();
        hub.onFrame = (_stream, frame) => {
          if (frame.case !== kind) return;
          hub.onFrame = () => undefined;
          void killAgent().then(resolve);
        };
        (await spawnAgent()).send({ case: "op", value: op });
        await killed;
        const second = await spawnAgent();
        await until("the result", () => second.results.some(({ opId }) => opId === op.opId));
        expect(second.results[0]?.errorReason).toBe("");
        expect(vmms()).toHaveLength(1);
      },
      TIMEOUT_MS,
    );

  test(
    "SIGTERM: the agent ends within 5 s, the machine goes on",
    async () => {
      await send(await spawnAgent(), startOp(id, 1, argv("idle")));
      const began = performance.now();
      child.kill("SIGTERM");
      expect(await child.exited).toBe(0);
      expect(performance.now() - began).toBeLessThan(5_000);
      const path = join(dir, "machines", id, "status.json");
      const { phase } = JSON.parse(readFileSync(path, "utf8")) as VmmStatus;
      expect(phase).toBe("running");
      expect(vmms()).toHaveLength(1);
    },
    TIMEOUT_MS,
  );

  test(
    "a machine directory that nobody knows is removed with its process",
    async () => {
      const first = await spawnAgent();
      await send(first, startOp(id, 1, argv("idle")));
      await killAgent();
      for (const name of readdirSync(dir)) if (name.startsWith("journal")) rmSync(join(dir, name));
      const second = await spawnAgent();
      expect(second.hello?.inventory).toEqual([]);
      expect(vmms()).toEqual([]);
      expect(readdirSync(join(dir, "machines"))).toEqual([]);
    },
    TIMEOUT_MS,
  );
});
