/** The control plane as a process of its own: killed, started again, stopped in order. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Goodbye_Reason, MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Machine } from "../../proto/rest.ts";
import { AUTHORIZATION, TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call } from "./kit/plane.ts";

setDefaultTimeout(60_000);

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "leveret-cp-"));
  chmodSync(root, 0o755);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

type Plane = {
  process: Bun.Subprocess<"ignore", "ignore", "pipe">;
  httpUrl: string;
  grpcAddr: string;
};

function spawnPlane(directory: string): Bun.Subprocess<"ignore", "ignore", "pipe"> {
  return Bun.spawn([process.execPath, join(import.meta.dir, "..", "..", "cp", "main.ts")], {
    cwd: root,
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      PATH: process.env["PATH"] ?? "",
      LEVERET_CP_DIR: directory,
      LEVERET_BOOTSTRAP_TOKEN: TEST_TOKEN,
      LEVERET_INSECURE_LINK: "1",
      HTTP_PORT: "0",
      GRPC_PORT: "0",
    },
  });
}

async function startPlane(directory: string): Promise<Plane> {
  const child = spawnPlane(directory);
  let text = "";
  const decoder = new TextDecoder();
  void (async () => {
    for await (const bytes of child.stderr) text += decoder.decode(bytes);
  })();
  const ready = await until("the control plane", () => {
    if (child.exitCode !== null) throw new Error(`it ended: ${text}`);
    return text.split("\n").find((line) => line.includes('"control plane is ready"'));
  });
  const { httpUrl, grpcAddr } = JSON.parse(ready) as { httpUrl: string; grpcAddr: string };
  return { process: child, httpUrl, grpcAddr };
}

function postmaster(directory: string): number {
  return Number(
    readFileSync(join(directory, "postgres", "data", "postmaster.pid"), "utf8").split("\n")[0],
  );
}

function isAlive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

test("matrix: cp SIGKILL: killed and started again, it has the same machines in the same states", async () => {
  const directory = join(root, "killed");
  const first = await startPlane(directory);
  const agent = await FakeAgent.connect(first.grpcAddr);
  const { hostId } = agent;
  const body = { name: "kept", config: { image: "busybox" } };
  const made = (await call(first, "POST", "/v1/machines", body)).body as Machine;
  agent.runStart(await agent.op(1));
  const waited = await call(first, "GET", "/v1/machines/kept/wait?state=started");
  expect(waited.status).toBe(200);
  const server = postmaster(directory);
  first.process.kill("SIGKILL");
  await first.process.exited;
  await until("the agent to notice", () => agent.ended);
  expect(isAlive(server)).toBe(true);

  const second = await startPlane(directory);
  expect(isAlive(server)).toBe(false);
  const before = (await call(second, "GET", "/v1/machines/kept")).body;
  expect(before).toMatchObject({ id: made.id, state: "unknown", desired_state: "started" });
  const inventory = [
    {
      machineId: made.id,
      state: MachineState.STARTED,
      generation: 1n,
      incarnation: 1n,
      sequence: 2n,
    },
  ];
  await using again = await FakeAgent.connect(second.grpcAddr, { hostId, inventory });
  expect(again.epoch).toBe(2n);
  const back = await call(second, "GET", "/v1/machines/kept/wait?state=started&timeout=10");
  expect(back).toMatchObject({ status: 200, body: { instance_id: made.instance_id } });
  second.process.kill("SIGTERM");
  expect(await second.process.exited).toBe(0);
});

test("matrix: cp SIGKILL: killed after the commit and before the ack, it neither loses the machine nor makes two", async () => {
  const directory = join(root, "committed");
  const first = await startPlane(directory);
  const agent = await FakeAgent.connect(first.grpcAddr);
  const { hostId } = agent;
  const body = { config: { image: "busybox" } };
  const key = { "idempotency-key": "once" };
  const made = (await call(first, "POST", "/v1/machines", body, key)).body as Machine;
  first.process.kill("SIGKILL");
  await first.process.exited;
  await until("the agent to notice", () => agent.ended);

  const second = await startPlane(directory);
  const again = await call(second, "POST", "/v1/machines", body, key);
  expect(again).toMatchObject({ status: 201, body: { id: made.id } });
  expect((await call(second, "GET", "/v1/machines")).body).toHaveLength(1);
  await using back = await FakeAgent.connect(second.grpcAddr, { hostId });
  const op = await back.op(1);
  expect(op).toMatchObject({ machineId: made.id, command: { value: { incarnation: 1n } } });
  back.runStart(op);
  const started = await call(second, "GET", `/v1/machines/${made.id}/wait?timeout=10`);
  expect(started).toMatchObject({ status: 200, body: { state: "started" } });
  expect(back.ops()).toHaveLength(1);
  second.process.kill("SIGTERM");
  expect(await second.process.exited).toBe(0);
});

test("matrix: two cps on one embedded data directory: the second one refuses, naming the first", async () => {
  const directory = join(root, "shared");
  const first = await startPlane(directory);
  const second = spawnPlane(directory);
  const text = await new Response(second.stderr).text();
  expect(await second.exited).toBe(1);
  expect(text).toBe(
    `cp: Cannot use "${directory}": the control plane with pid ${first.process.pid} uses it\n`,
  );
  first.process.kill("SIGTERM");
  expect(await first.process.exited).toBe(0);
});

test("matrix: SIGTERM with live agents: says Goodbye, ends streams that are open, and leaves no PostgreSQL behind", async () => {
  const directory = join(root, "stopped");
  const plane = await startPlane(directory);
  const agent = await FakeAgent.connect(plane.grpcAddr);
  const made = (await call(plane, "POST", "/v1/machines", { config: { image: "busybox" } }))
    .body as Machine;
  agent.runStart(await agent.op(1));
  const follower = await fetch(`${plane.httpUrl}/v1/machines/${made.id}/logs?follow=true`, {
    headers: AUTHORIZATION,
  });
  const waiter = call(plane, "GET", `/v1/machines/${made.id}/wait?state=stopped`);
  await until("OpenSession", () => agent.sessions()[0]);
  const server = postmaster(directory);
  const begun = Date.now();
  plane.process.kill("SIGTERM");
  expect(await plane.process.exited).toBe(0);
  expect(Date.now() - begun).toBeLessThan(8_000);
  await until("the agent to notice", () => agent.ended);
  const last = agent.frames.at(-1)?.frame;
  expect(last).toMatchObject({ case: "goodbye", value: { reason: Goodbye_Reason.SHUTDOWN } });
  expect(isAlive(server)).toBe(false);
  expect(existsSync(join(directory, "postgres", "data", "postmaster.pid"))).toBe(false);
  await follower.text().catch(() => "");
  expect(await waiter).toMatchObject({
    status: 503,
    body: { error: { reason: "SHUTTING_DOWN" } },
  });
});
