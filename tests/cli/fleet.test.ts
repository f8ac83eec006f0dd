/** The verbs of the fleet and of tenancy, as processes, against a control plane with two hosts. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { World } from "../kit/world.ts";

setDefaultTimeout(60_000);

const MAIN = join(import.meta.dir, "..", "..", "cli", "main.ts");

let world: World;
beforeAll(async () => {
  world = await World.create({ agents: 2 });
});
afterAll(() => world[Symbol.asyncDispose]());

async function lev(argv: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn([process.execPath, "--no-env-file", MAIN, ...argv], {
    env: {
      ...process.env,
      LEVERET_URL: world.plane.httpUrl,
      LEVERET_TOKEN: TEST_TOKEN,
      ...env,
    },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, stdout, stderr] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code, stdout: stdout.trimEnd(), stderr: stderr.trimEnd() };
}

async function ok(argv: string[], env: Record<string, string> = {}): Promise<string> {
  const result = await lev(argv, env);
  expect([argv, result.code, result.stderr]).toEqual([argv, 0, expect.any(String)]);
  return result.stdout;
}

test("a project of one's own: token, quota, machines that others do not see", async () => {
  await ok(["projects", "create", "--machines", "1", "team"]);
  const LEVERET_PROJECT = "team";
  const LEVERET_TOKEN = await ok(["tokens", "create", "--scope", "write", "ci"], {
    LEVERET_PROJECT,
  });
  expect(LEVERET_TOKEN).toMatch(/^lvt_/);
  const own = { LEVERET_TOKEN };
  const id = await ok(["run", "-d", "--name", "web", "busybox", "sleep", "600"], own);
  expect(await ok(["ps"], own)).toContain(id);
  expect(await ok(["ps"])).not.toContain(id);
  const over = await lev(["run", "-d", "busybox", "sleep", "600"], own);
  expect(over.stderr).toStartWith("lev: QUOTA_EXCEEDED:");
  expect((await lev(["hosts"], own)).stderr).toStartWith("lev: PERMISSION_DENIED:");
  expect(await ok(["events", "web"], own)).toContain("create");
  await ok(["rm", "-f", "web"], own);
  const listed = await ok(["tokens"]);
  const tokenId = /^(tok_\w+)\s+ci\b/m.exec(listed)?.[1] ?? "";
  await ok(["tokens", "revoke", tokenId]);
  expect((await lev(["ps"], own)).stderr).toStartWith("lev: UNAUTHENTICATED:");
  await ok(["projects", "rm", "team"]);
  expect(await ok(["audit"])).toContain("/v1/projects");
});

test("a machine is changed, leased and restarted", async () => {
  const id = await ok(["run", "-d", "--name", "app", "busybox", "sleep", "600"]);
  const { instance_id: first } = await world.client.machine(id);
  expect(await ok(["metadata", "app", "tier=front", "x=1", "x-"])).toBe('{\n  "tier": "front"\n}');
  const LEVERET_LEASE_NONCE = await ok(["lease", "take", "--ttl", "600", "app"]);
  expect((await lev(["restart", "app"])).stderr).toStartWith("lev: LEASE_HELD:");
  await ok(["update", "-e", "A=1", "app"], { LEVERET_LEASE_NONCE });
  await ok(["restart", "-t", "1", "app"], { LEVERET_LEASE_NONCE });
  const machine = await world.client.machine(id);
  expect(machine).toMatchObject({ state: "started", config: { env: { A: "1" } } });
  expect(machine.instance_id).not.toBe(first);
  await ok(["lease", "release", "app"], { LEVERET_LEASE_NONCE });
  await ok(["rm", "-f", "app"]);
});

test("a host is drained: its machine goes on elsewhere, and comes to nobody twice", async () => {
  const id = await ok(["run", "-d", "--name", "mover", "busybox", "sleep", "600"]);
  const { host_id: from } = await world.client.machine(id);
  await ok(["hosts", "drain", "--deadline", "60", String(from)]);
  await world.untilMoved(id, String(from));
  expect(await ok(["hosts"])).toContain("draining");
  await world.untilRunning(1);
  await ok(["hosts", "uncordon", String(from)]);
  expect(await ok(["hosts"])).not.toContain("draining");
  await ok(["rm", "-f", "mover"]);
});

test("run fails at once without room, and waits for it when it is told to", async () => {
  const failed = await lev(["run", "--rm", "--label", "zone=mars", "busybox", "true"]);
  expect(failed.code).toBe(125);
  expect(failed.stderr).toContain(
    "NO_CAPACITY: No host has room for 256 MiB: 2 hosts: 2 label zone=mars",
  );
  const hosts = (await world.client.hosts()).map(({ id }) => id);
  for (const host of hosts) await ok(["hosts", "cordon", host]);
  const waiting = lev([
    "run",
    "--rm",
    "--name",
    "patient",
    "--wait-capacity",
    "busybox",
    "exit",
    "0",
  ]);
  await until("the machine to be pending", async () =>
    (await world.client.machines()).some(({ state }) => state === "pending"),
  );
  for (const host of hosts) await ok(["hosts", "uncordon", host]);
  expect(await waiting).toMatchObject({ code: 0 });
});

test("a run with a restart policy shows every run, and ends with the last one's code", async () => {
  const argv = ["run", "--restart", "on-failure:2", "--name", "again", "busybox", "exit", "3"];
  expect(await lev(argv)).toMatchObject({ code: 3, stderr: "" });
  const machine = await world.client.machine("again");
  expect(machine).toMatchObject({
    instance_id: `${machine.id}.3`,
    desired_state: "stopped",
    restarts: 2,
  });
  expect(machine.events?.filter(({ type }) => type === "restart").length).toBe(2);
});
