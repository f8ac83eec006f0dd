/** Where machines go, and what becomes of those that fit nowhere; hosts only report. */
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { sql } from "drizzle-orm";
import { markDisconnected, touchHost } from "../../cp/db/queries/hosts.ts";
import { drainHosts, sweepFleet } from "../../cp/ops/fleet.ts";
import { restartDue } from "../../cp/ops/ended.ts";
import { placePending } from "../../cp/ops/pending.ts";
import { storeReport } from "../../cp/ops/report.ts";
import { storeResult } from "../../cp/ops/result.ts";
import type { MachineConfigInput } from "../../proto/rest.ts";
import type { MachineState } from "../../proto/states.ts";
import { startApi, type Api, type Body } from "./kit/api.ts";

setDefaultTimeout(30_000);

let api: Api;
beforeEach(async () => {
  api = await startApi();
});
afterEach(() => api[Symbol.asyncDispose]());

async function create(config: Partial<MachineConfigInput> = {}): Promise<Body> {
  const made = await api.call("POST", "/v1/machines", { config: { image: "busybox", ...config } });
  expect(made.status).toBe(201);
  return made.body;
}
const show = async (id: unknown): Promise<Body> =>
  (await api.call("GET", `/v1/machines/${String(id)}`)).body;
const host = async (id: string): Promise<Body> => (await api.call("GET", `/v1/hosts/${id}`)).body;

let sequence = 0;
async function report(machine: Body, hostId: string, state: MachineState): Promise<void> {
  const id = String(machine["id"]);
  const [row] = await api.database.db.execute(
    sql`select desired_generation, incarnation from machines where id = ${id}`,
  );
  await storeReport(api.deps, { hostId, epoch: 1 }, id, {
    state,
    generation: Number(row?.["desired_generation"]),
    incarnation: Number(row?.["incarnation"]),
    sequence: (sequence += 1),
    reason: null,
    message: null,
    exit: null,
    imageDigest: `sha256:${"a".repeat(64)}`,
    bootUs: null,
    startedAtMs: null,
    stoppedAtMs: null,
  });
}

test("without room a machine is pending, says why, and is placed when there is some", async () => {
  const made = await create();
  expect(made).toMatchObject({
    state: "pending",
    desired_state: "started",
    status_reason: "NO_CAPACITY",
    status_message: expect.stringContaining("No host is registered"),
    host_id: null,
  });
  const small = await api.addHost({ memoryMib: 128 });
  await placePending(api.deps);
  expect((await show(made["id"]))["status_message"]).toBe(
    "No host has room for 256 MiB: 1 host: 1 memory",
  );
  await api.call("POST", `/v1/hosts/${small}/cordon`);
  await placePending(api.deps);
  expect((await show(made["id"]))["status_message"]).toContain("1 host: 1 cordoned");
  const large = await api.addHost();
  await placePending(api.deps);
  expect(await show(made["id"])).toMatchObject({ state: "starting", host_id: large });
  expect(api.woken).toContain(large);
});

test("a pending machine can be stopped, started and removed", async () => {
  const { id } = await create();
  const path = `/v1/machines/${String(id)}`;
  expect((await api.call("POST", `${path}/stop`)).body).toMatchObject({
    state: "stopped",
    desired_state: "stopped",
  });
  await api.addHost();
  await placePending(api.deps);
  expect(await show(id)).toMatchObject({ state: "stopped" });
  expect((await api.call("POST", `${path}/start`)).body).toMatchObject({ state: "starting" });
  const other = await create({ guest: { memory_mb: 60_000 } });
  expect((await api.call("DELETE", `/v1/machines/${String(other["id"])}`)).body).toMatchObject({
    state: "destroyed",
  });
});

test("labels choose the host, and a group shares none, at the same time too", async () => {
  const ids = [await api.addHost(), await api.addHost(), await api.addHost()];
  await api.database.db.execute(
    sql`update hosts set labels = '{"zone":"a"}'::jsonb where id = ${ids[1] ?? ""}`,
  );
  const zoned = await create({ placement: { labels: { zone: "a", arch: "amd64" } } });
  expect(zoned["host_id"]).toBe(ids[1]);
  const nowhere = await create({ placement: { labels: { zone: "b" } } });
  expect(nowhere["status_message"]).toContain("3 hosts: 3 label zone=b");
  const group = await Promise.all(
    Array.from({ length: 4 }, () => create({ placement: { anti_affinity: "db" } })),
  );
  const taken = group.map((machine) => machine["host_id"]).filter((id) => id !== null);
  expect(new Set(taken).size).toBe(3);
  expect(taken.length).toBe(3);
});

test("a host that has had the image is preferred to one that has not", async () => {
  const room = { cpus: 32, memoryMib: 16_384, diskMib: 200_000 };
  const first = await api.addHost(room);
  const machine = await create({ image: "warm" });
  await report(machine, first, "started");
  await api.addHost(room);
  for (let n = 0; n < 2; n += 1) expect((await create({ image: "warm" }))["host_id"]).toBe(first);
});

test("a silent host is suspect, back with a heartbeat, and lost when it stays away", async () => {
  const id = await api.addHost();
  const ago = (seconds: number) =>
    api.database.db.execute(
      sql`update hosts set last_seen_at = now() - make_interval(secs => ${seconds}) where id = ${id}`,
    );
  await ago(20);
  await sweepFleet(api.deps, 3_600);
  expect(await host(id)).toMatchObject({ state: "suspect" });
  expect((await create())["status_message"]).toContain("1 suspect");
  await touchHost(api.database.db, id, 1);
  expect(await host(id)).toMatchObject({ state: "ready" });
  await markDisconnected(api.database.db, id, 1);
  await ago(3_000);
  await sweepFleet(api.deps, 3_600);
  expect(await host(id)).toMatchObject({ state: "disconnected" });
  await ago(3_700);
  await sweepFleet(api.deps, 3_600);
  expect(await host(id)).toMatchObject({ state: "lost" });
});

test("a host that keeps failing starts is left alone for a while", async () => {
  const id = await api.addHost();
  const fail = async (reason: string): Promise<void> => {
    const machine = String((await create())["id"]);
    const [op] = await api.database.db.execute(
      sql`select id from ops where machine_id = ${machine}`,
    );
    await storeResult(
      api.deps,
      { hostId: id, epoch: 1 },
      {
        opId: String(op?.["id"]),
        machineId: machine,
        error: { reason, message: "no" },
        report: null,
        image: null,
      },
    );
  };
  // Not the host's fault: no number of them counts.
  for (let n = 0; n < 4; n += 1) await fail("IMAGE_NOT_FOUND");
  expect(await host(id)).toMatchObject({ quarantined_until: null });
  for (let n = 0; n < 3; n += 1) await fail("VMM_FAULT");
  expect((await host(id))["quarantined_until"]).not.toBeNull();
  expect((await create())["status_message"]).toContain("1 quarantined");
  await api.database.db.execute(sql`update hosts set quarantined_until = now()`);
  await sweepFleet(api.deps, 3_600);
  await placePending(api.deps);
  expect(await host(id)).toMatchObject({ quarantined_until: null });
});

test("drain moves machines: stopped here, begun there, removed here", async () => {
  const old = await api.addHost();
  const machine = await create();
  await report(machine, old, "started");
  const next = await api.addHost();
  const drained = await api.call("POST", `/v1/hosts/${old}/drain`, { deadline: 60 });
  expect(drained.body).toMatchObject({ cordoned: true, draining: "move" });
  await drainHosts(api.deps);
  expect(await show(machine["id"])).toMatchObject({ state: "stopping", host_id: old });
  // A second pass asks for nothing more.
  const version = (await show(machine["id"]))["version"];
  await drainHosts(api.deps);
  expect((await show(machine["id"]))["version"]).toBe(version);
  await report(machine, old, "stopped");
  expect(await show(machine["id"])).toMatchObject({
    state: "starting",
    desired_state: "started",
    host_id: next,
    instance_id: `${String(machine["id"])}.2`,
  });
  expect(await host(old)).toMatchObject({ committed: { cpus: 0, memory_mb: 0, disk_mb: 0 } });
  const ops = await api.database.db.execute(
    sql`select host_id, command->>'kind' as kind, state from ops where state = 'pending' order by sequence`,
  );
  expect(ops.map((op) => [op["host_id"], op["kind"]])).toEqual([
    [next, "start"],
    [old, "destroy"],
  ]);
});

test("drain without another host leaves the machine pending; uncordon takes it back", async () => {
  const only = await api.addHost();
  const machine = await create();
  await report(machine, only, "started");
  await api.call("POST", `/v1/hosts/${only}/drain`);
  await drainHosts(api.deps);
  await report(machine, only, "stopped");
  await restartDue(api.deps);
  expect(await show(machine["id"])).toMatchObject({
    state: "pending",
    status_message: expect.stringContaining("1 cordoned"),
  });
  await api.call("POST", `/v1/hosts/${only}/uncordon`);
  await placePending(api.deps);
  expect(await show(machine["id"])).toMatchObject({ state: "starting", host_id: only });
});

test("drain with mode stop leaves the machines stopped where they are", async () => {
  const id = await api.addHost();
  const machine = await create({ restart: { policy: "always" } });
  await report(machine, id, "started");
  await api.call("POST", `/v1/hosts/${id}/drain`, { mode: "stop" });
  await drainHosts(api.deps);
  await report(machine, id, "stopped");
  expect(await show(machine["id"])).toMatchObject({ state: "stopped", desired_state: "stopped" });
  const start = await api.call("POST", `/v1/machines/${String(machine["id"])}/start`);
  expect(start.body["error"]).toMatchObject({
    reason: "HOST_UNAVAILABLE",
    message: expect.stringContaining("cordoned"),
  });
});
