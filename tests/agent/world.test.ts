/** Control plane, link and agent together, with the fake driver under them. */
import { expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Clock, systemClock } from "../../lib/clock.ts";
import type { Machine } from "../../proto/rest.ts";
import { failure } from "../kit/failure.ts";
import { until } from "../kit/until.ts";
import { World } from "../kit/world.ts";

const TIMEOUT_MS = 60_000;

test(
  "a machine runs, its output is read, it ends with its exit code",
  async () => {
    await using world = await World.create();
    const machine = await world.run(["exit", "7"], { name: "seven" });
    const ended = await world.untilState(machine.id, "stopped");
    expect(ended).toMatchObject({ exit_code: 7, status_reason: null, boot_us: 1_000 });
    expect(ended.image_digest).toStartWith("sha256:");
    await world.run(["echo", "hello", "there"], { name: "echo" });
    expect(await world.logs("echo", true)).toBe("hello there\n");
    await world.untilState("echo", "stopped");
    expect(await world.logs("echo")).toBe("hello there\n");
  },
  TIMEOUT_MS,
);

test(
  "stop, start again, and the output goes on",
  async () => {
    await using world = await World.create();
    const { id } = await world.run(["count"]);
    await world.untilState(id, "started");
    await world.client.stop(id);
    const stopped = await world.untilState(id, "stopped");
    expect(stopped).toMatchObject({ exit_code: 143, desired_state: "stopped" });
    await world.client.start(id);
    const again = await world.untilState(id, "started");
    expect(again.instance_id).not.toBe(stopped.instance_id);
    const lines: { sequence: number; instance_id: string }[] = [];
    for await (const line of world.client.logs(id, false)) lines.push(line);
    expect(lines.map(({ sequence }) => sequence)).toEqual(lines.map((_, index) => index + 1));
  },
  TIMEOUT_MS,
);

test(
  "an unknown image: failed, with the reason, and nothing held",
  async () => {
    await using world = await World.create();
    const { id } = await world.run([], { image: "missing:latest" });
    const failed = await world.untilState(id, "failed");
    expect(failed).toMatchObject({
      status_reason: "IMAGE_NOT_FOUND",
      status_message: 'Image "missing:latest" was not found',
    });
    const [host] = await world.client.hosts();
    expect(host?.committed).toMatchObject({ cpus: 0, memory_mb: 0 });
  },
  TIMEOUT_MS,
);

test(
  "delete while the image is built: the machine goes, the build stays",
  async () => {
    await using world = await World.create();
    const { id } = await world.run(["count"], { image: "slow" });
    await until("the image is awaited", () => world.agent.images.waiting === 1);
    await world.client.remove(id);
    await until("it is gone", async () => (await world.client.machines()).length === 0);
    expect(world.agent.driver.begun).toEqual([]);
  },
  TIMEOUT_MS,
);

test(
  "stop while the image is built takes effect at once, and start works afterwards",
  async () => {
    await using world = await World.create();
    const { id } = await world.run(["count"], { image: "slow" });
    await until("the image is awaited", () => world.agent.images.waiting === 1);
    await world.client.stop(id);
    await world.untilState(id, "stopped");
    world.agent.images.release();
    await world.client.start(id);
    await world.untilState(id, "started");
    expect(world.agent.driver.begun).toHaveLength(1);
  },
  TIMEOUT_MS,
);

test(
  "the control plane restarts: same machines, same states, no run is touched",
  async () => {
    await using world = await World.create({ agents: 2 });
    const machines: Machine[] = [];
    for (let number = 0; number < 4; number += 1) machines.push(await world.run(["count"]));
    for (const { id } of machines) await world.untilState(id, "started");
    const runs = world.agents.flatMap((agent) => agent.driver.begun).length;
    await world.restartPlane();
    for (const { id } of machines) await world.untilState(id, "started");
    expect(world.agents.flatMap((agent) => agent.driver.begun)).toHaveLength(runs);
  },
  TIMEOUT_MS,
);

test(
  "a machine that ends while the control plane is away is told afterwards",
  async () => {
    await using world = await World.create();
    const { id } = await world.run(["idle"]);
    await world.untilState(id, "started");
    await world.restartPlane(async () => {
      world.agent.driver.run(id)?.finish({ exitCode: 5, exitSignal: 0 });
      await until("the agent knows", () => world.agent.driver.running === 0);
    });
    expect(await world.untilState(id, "stopped")).toMatchObject({ exit_code: 5 });
    expect(world.agent.driver.begun).toHaveLength(1);
  },
  TIMEOUT_MS,
);

test(
  "the agent restarts while a machine counts: every line once",
  async () => {
    await using world = await World.create();
    const { id } = await world.run(["count", "200"]);
    await world.untilState(id, "started");
    const reading = world.logs(id, true);
    await world.agent.restart();
    const lines = Array.from({ length: 200 }, (_, line) => `line ${line}\n`).join("");
    expect(await reading).toBe(lines);
    expect(await world.untilState(id, "stopped")).toMatchObject({ exit_code: 0 });
    expect(world.agent.driver.begun).toHaveLength(1);
  },
  TIMEOUT_MS,
);

test(
  "100 alternating starts and stops: one run at most, and the last word holds",
  async () => {
    await using world = await World.create();
    const { id } = await world.run(["idle"]);
    for (let number = 0; number < 100; number += 1) {
      const call = number % 2 === 0 ? world.client.stop(id) : world.client.start(id);
      await call.catch(() => undefined);
    }
    await world.client.stop(id).catch(() => undefined);
    await world.untilState(id, "stopped");
    await until("nothing runs", () => world.agent.driver.running === 0);
    expect((await world.client.machine(id)).desired_state).toBe("stopped");
  },
  TIMEOUT_MS,
);

test(
  "placement respects what a host has",
  async () => {
    await using world = await World.create({ agents: 2 });
    const guest = { memory_mb: 3_000 };
    await world.run(["idle"], { name: "one", guest });
    await world.run(["idle"], { name: "two", guest });
    const third = await world.run(["idle"], { name: "three", guest });
    expect(third).toMatchObject({ state: "failed", status_reason: "NO_CAPACITY" });
    const [one, two] = [
      await world.untilState("one", "started"),
      await world.untilState("two", "started"),
    ];
    expect(one.host_id).not.toBe(two.host_id);
    const taken = await failure(world.run(["idle"], { name: "one" }));
    expect(taken.reason).toBe("NAME_TAKEN");
  },
  TIMEOUT_MS,
);

test(
  "a run that nobody asked for is destroyed when its agent comes back",
  async () => {
    await using world = await World.create();
    const { id } = await world.run(["count"]);
    await world.untilState(id, "started");
    await world.agent.stop();
    await world.client.remove(id);
    await world.agent.restart();
    await until("it is gone", () => world.agent.driver.running === 0);
  },
  TIMEOUT_MS,
);

test(
  "over mTLS: agents come back to a control plane that was started again, and lose nothing",
  async () => {
    await using world = await World.create({ agents: 2, mtls: true });
    const { id } = await world.run(["count"]);
    const started = await world.untilState(id, "started");
    await world.restartPlane();
    await world.untilReady(2);
    const after = await world.untilState(id, "started");
    expect(after).toMatchObject({ instance_id: started.instance_id, host_id: started.host_id });
    expect(await world.logs(id)).toContain("line 0\n");
    await world.client.stop(id);
    expect(await world.untilState(id, "stopped")).toMatchObject({ exit_code: 143 });
  },
  TIMEOUT_MS,
);

for (const minutes of [-10, 10])
  test(
    `matrix: an agent whose clock is ${minutes} min off is neither down nor renewed early`,
    async () => {
      const clock: Clock = {
        now: () => Date.now() + minutes * 60_000,
        // Six heartbeats in the time of one.
        sleep: (ms, signal) => systemClock.sleep(ms / 6, signal),
      };
      await using world = await World.create({ mtls: true, agent: { clock } });
      const certificate = (): string =>
        readFileSync(join(world.agent.dir, "identity", "certificate.pem"), "utf8");
      const before = certificate();
      const { id } = await world.run(["count"]);
      await world.untilState(id, "started");
      const seen = async (): Promise<number> =>
        Date.parse((await world.client.hosts())[0]?.last_seen_at ?? "");
      const first = await seen();
      await until("heartbeats", async () => (await seen()) > first + 1_000);
      // By the database's clock, whatever the agent believes.
      expect(Math.abs((await seen()) - Date.now())).toBeLessThan(30_000);
      const [host] = await world.client.hosts();
      expect(host?.state).toBe("ready");
      expect((await world.client.machine(id)).state).toBe("started");
      expect(certificate()).toBe(before);
      const { validFrom, validTo } = new X509Certificate(before);
      expect(Date.parse(validFrom)).toBeLessThan(clock.now());
      expect(Date.parse(validTo)).toBeGreaterThan(clock.now());
    },
    TIMEOUT_MS,
  );

for (const minutes of [-10, 10])
  test(
    `matrix: a run that ended by a clock that is ${minutes} min off is followed by the next one in time`,
    async () => {
      const now = (): number => Date.now() + minutes * 60_000;
      await using world = await World.create({
        agent: { clock: { ...systemClock, now } },
        driver: { now },
      });
      const { id } = await world.run(["exit", "1"], { restart: { policy: "always" } });
      await until("two more runs", () => world.agent.driver.begun.length >= 3);
      await world.client.stop(id);
      await world.untilState(id, "stopped");
    },
    TIMEOUT_MS,
  );
