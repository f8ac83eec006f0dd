/** Restart policy, auto_destroy, leases, updates and metadata, with a host that only reports. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { sql } from "drizzle-orm";
import { restartDue } from "../../cp/ops/ended.ts";
import { storeReport } from "../../cp/ops/report.ts";
import { Machine, type MachineConfigInput } from "../../proto/rest.ts";
import type { MachineState } from "../../proto/states.ts";
import { startApi, type Api, type Body } from "./kit/api.ts";

setDefaultTimeout(30_000);

let api: Api;
let hostId = "";
beforeAll(async () => {
  api = await startApi();
  hostId = await api.addHost({ cpus: 32, memoryMib: 16_384, diskMib: 200_000 });
});
afterAll(() => api[Symbol.asyncDispose]());

async function create(config: Partial<MachineConfigInput> = {}): Promise<string> {
  const { body } = await api.call("POST", "/v1/machines", {
    config: { image: "busybox", ...config },
  });
  return String(body["id"]);
}
const show = async (id: string): Promise<Body> =>
  (await api.call("GET", `/v1/machines/${id}`)).body;

let sequence = 0;
async function report(id: string, state: MachineState, exitCode: number | null = null, ranMs = 10) {
  const row = await api.database.db.execute(
    sql`select desired_generation, incarnation from machines where id = ${id}`,
  );
  await storeReport(api.deps, { hostId, epoch: 1 }, id, {
    state,
    generation: Number(row[0]?.["desired_generation"]),
    incarnation: Number(row[0]?.["incarnation"]),
    sequence: (sequence += 1),
    reason: state === "failed" ? "GUEST_FAULT" : null,
    message: null,
    exit: exitCode === null ? null : { code: exitCode, signal: 0 },
    imageDigest: null,
    bootUs: null,
    startedAtMs: 1_000,
    stoppedAtMs: 1_000 + ranMs,
  });
}

test("on-failure: another run at once, then later and later, then rest", async () => {
  const id = await create({ restart: { policy: "on-failure", max_retries: 2 } });
  await report(id, "started");
  await report(id, "stopped", 1);
  expect(await show(id)).toMatchObject({
    state: "starting",
    desired_state: "started",
    restarts: 1,
    instance_id: `${id}.2`,
  });
  await report(id, "failed");
  expect(await show(id)).toMatchObject({ state: "failed", desired_state: "started", restarts: 2 });
  // The host repeats itself after a reconnect: that is no further end.
  await report(id, "failed");
  expect(await show(id)).toMatchObject({ restarts: 2, instance_id: `${id}.2` });
  const wait = await api.call("GET", `/v1/machines/${id}/wait?state=started&timeout=0`);
  expect(wait.body["error"]).toMatchObject({ reason: "WAIT_TIMEOUT" });
  await restartDue(api.deps);
  expect(await show(id)).toMatchObject({ state: "failed" });
  await api.database.db.execute(sql`update machines set restart_at = now() where id = ${id}`);
  await restartDue(api.deps);
  expect(await show(id)).toMatchObject({ state: "starting", instance_id: `${id}.3` });
  await report(id, "stopped", 1);
  expect(await show(id)).toMatchObject({ state: "stopped", desired_state: "stopped" });
});

test("a success ends on-failure, and a stop ends always", async () => {
  const once = await create({ restart: { policy: "on-failure" } });
  await report(once, "started");
  await report(once, "stopped", 0);
  expect(await show(once)).toMatchObject({ state: "stopped", desired_state: "stopped" });

  const always = await create({ restart: { policy: "always" } });
  await report(always, "stopped", 0);
  await report(always, "stopped", 0);
  expect(await show(always)).toMatchObject({ state: "stopped", desired_state: "started" });
  await api.call("POST", `/v1/machines/${always}/stop`);
  expect(await show(always)).toMatchObject({ desired_state: "stopped", restart_at: null });
  // A start does not wait, and counts from the beginning.
  await api.call("POST", `/v1/machines/${always}/start`);
  expect(await show(always)).toMatchObject({ state: "starting", restarts: 0 });
});

test("a restart is one stop and one start, whenever the stop is reported", async () => {
  const id = await create();
  await report(id, "started");
  expect((await api.call("POST", `/v1/machines/${id}/restart`)).body).toMatchObject({
    state: "stopping",
  });
  await report(id, "stopped", 0);
  expect(await show(id)).toMatchObject({
    state: "starting",
    desired_state: "started",
    instance_id: `${id}.2`,
  });
});

test("auto_destroy removes the machine after its last run", async () => {
  const id = await create({
    auto_destroy: true,
    restart: { policy: "on-failure", max_retries: 1 },
  });
  await report(id, "stopped", 1);
  expect(await show(id)).toMatchObject({ state: "starting" });
  await report(id, "stopped", 0);
  expect(await show(id)).toMatchObject({ state: "destroying", exit_code: 0 });
});

test("a leased machine changes only for the one who has the nonce", async () => {
  const id = await create();
  const path = `/v1/machines/${id}`;
  const taken = await api.call("POST", `${path}/lease`, { ttl: 60, description: "deploy" });
  expect(taken.status).toBe(201);
  const headers = { "leveret-machine-lease-nonce": String(taken.body["nonce"]) };
  expect((await api.call("GET", `${path}/lease`)).body).not.toHaveProperty("nonce");
  for (const [method, at, body] of [
    ["POST", `${path}/stop`, undefined],
    ["POST", `${path}/restart`, undefined],
    ["POST", `${path}/lease`, {}],
    ["PATCH", path, { config: { env: { A: "1" } } }],
    ["POST", `${path}/metadata/k`, { value: "v" }],
    ["DELETE", `${path}/lease`, undefined],
    ["DELETE", path, undefined],
  ] as const) {
    const refused = await api.call(method, at, body, { route: routeOf(at, id) });
    expect([method, at, refused.body["error"]]).toMatchObject([
      method,
      at,
      { code: 409, reason: "LEASE_HELD" },
    ]);
  }
  const renewed = await api.call("POST", `${path}/lease`, { ttl: 600 }, { headers });
  expect(renewed.body["nonce"]).toBe(taken.body["nonce"]);
  expect((await api.call("POST", `${path}/stop`, undefined, { headers })).status).toBe(200);
  // Over by the database's clock: nobody has to give it back.
  await api.database.db.execute(sql`update machines set lease_expires_at = now() where id = ${id}`);
  expect((await api.call("GET", `${path}/lease`)).status).toBe(404);
  expect((await api.call("DELETE", path)).status).toBe(200);
});

const routeOf = (path: string, id: string): string =>
  path.replace(id, "{id}").replace("/metadata/k", "/metadata/{key}");

test("an update merges or replaces, for the version it was meant for", async () => {
  const id = await create({ env: { A: "1", B: "2" } });
  const path = `/v1/machines/${id}`;
  const { version } = Machine.parse(await show(id));
  const headers = { "if-match": `"${version}"` };
  const env = { A: null, C: "3" };
  const merged = await api.call("PATCH", path, { config: { env } }, { headers });
  expect(merged.body).toMatchObject({ version: version + 1, config: { env: { B: "2", C: "3" } } });
  expect(Machine.parse(merged.body).config.env).not.toHaveProperty("A");
  const late = await api.call("PATCH", path, { config: { env } }, { headers });
  expect(late.body["error"]).toMatchObject({ code: 412, reason: "VERSION_MISMATCH" });
  const wrong = await api.call("PATCH", path, { config: { guest: { cpus: 99 } } });
  expect(wrong.body["error"]).toMatchObject({
    reason: "BAD_REQUEST",
    message: expect.stringContaining("guest.cpus"),
  });
  const running = await api.call("PATCH", path, { config: { guest: { cpus: 2 } } });
  expect(running.body["error"]).toMatchObject({ reason: "STATE_CONFLICT" });
  const whole = await api.call("POST", path, { config: { image: "alpine" } });
  expect(Machine.parse(whole.body).config).toMatchObject({ image: "alpine", env: {} });
});

test("a machine at rest changes its size, and takes the new one at its next start", async () => {
  const id = await create();
  await report(id, "stopped", 0);
  const before = Number(
    ((await api.call("GET", `/v1/hosts/${hostId}`)).body["committed"] as Body)["cpus"],
  );
  const bigger = { config: { guest: { cpus: 4 } } };
  expect((await api.call("PATCH", `/v1/machines/${id}`, bigger)).status).toBe(200);
  await api.call("POST", `/v1/machines/${id}/start`);
  const host = (await api.call("GET", `/v1/hosts/${hostId}`)).body;
  expect(host["committed"]).toMatchObject({ cpus: before + 4 });
  const disk = await api.call("PATCH", `/v1/machines/${id}`, {
    config: { guest: { disk_mb: 99 } },
  });
  expect(disk.body["error"]).toMatchObject({ reason: "STATE_CONFLICT" });
});

test("metadata is set and removed value by value", async () => {
  const id = await create({ metadata: { a: "1" } });
  const path = `/v1/machines/${id}/metadata`;
  const route = { route: "/v1/machines/{id}/metadata/{key}" };
  await api.call("POST", `${path}/b`, { value: "2" }, route);
  expect((await api.call("GET", path)).body).toEqual({ a: "1", b: "2" });
  await api.call("DELETE", `${path}/a`, undefined, route);
  expect((await api.call("GET", path)).body).toEqual({ b: "2" });
});

test("force removes a machine whose host is away, and only then", async () => {
  const away = await api.addHost();
  const id = await create();
  await api.database.db.execute(
    sql`update machines set host_id = ${away}, observed_state = 'unknown' where id = ${id}`,
  );
  const path = `/v1/machines/${id}`;
  expect((await api.call("DELETE", `${path}?force=true`)).body).toMatchObject({
    state: "destroying",
  });
  await api.database.db.execute(sql`update hosts set state = 'disconnected' where id = ${away}`);
  expect((await api.call("DELETE", `${path}?force=true`)).body).toMatchObject({
    state: "destroyed",
  });
});

test("a key is good for 24 hours, and then for another request", async () => {
  const headers = { "idempotency-key": "day" };
  const ask = (name: string) =>
    api.call("POST", "/v1/machines", { name, config: { image: "busybox" } }, { headers });
  expect((await ask("monday")).status).toBe(201);
  await api.database.db.execute(
    sql`update idempotency_keys set created_at = now() - interval '25 hours'`,
  );
  expect((await ask("tuesday")).status).toBe(201);
});

test("every POST is handled once under its Idempotency-Key, and answered the same", async () => {
  const headers = { "idempotency-key": "token" };
  const ask = (name: string) =>
    api.call("POST", "/v1/tokens", { name, scope: "read" }, { headers });
  const first = await ask("ci");
  expect(first.status).toBe(201);
  expect(first.headers.get("idempotent-replayed")).toBeNull();
  const again = await ask("ci");
  expect(again.headers.get("idempotent-replayed")).toBe("true");
  expect(again.body).toEqual(first.body);
  expect((await ask("other")).body["error"]).toMatchObject({ reason: "IDEMPOTENCY_MISMATCH" });
  const made = await api.database.db.execute(sql`select id from tokens where name = 'ci'`);
  expect(made).toHaveLength(1);
  // The token itself is nowhere in the clear.
  const [kept] = await api.database.db.execute<{ body: Uint8Array }>(
    sql`select body from idempotency_replies where key = 'token'`,
  );
  expect(Buffer.from(kept?.body ?? []).includes("lvt_")).toBe(false);
});

test("a key is free again after a failure, held while its request is handled, and taken over from the dead", async () => {
  const headers = { "idempotency-key": "cordon" };
  const cordon = (host: string) =>
    api.call("POST", `/v1/hosts/${host}/cordon`, undefined, {
      headers,
      route: "/v1/hosts/{id}/cordon",
    });
  expect((await cordon("nobody")).status).toBe(404);
  const id = await api.addHost();
  expect((await cordon(id)).status).toBe(200);
  const forget = (ago: string) =>
    api.database.db.execute(
      sql`update idempotency_replies set status = null, created_at = now() - ${ago}::interval where key = 'cordon'`,
    );
  await forget("1 second");
  expect((await cordon(id)).body["error"]).toMatchObject({ reason: "STATE_CONFLICT" });
  await forget("2 minutes");
  const taken = await cordon(id);
  expect(taken.status).toBe(200);
  expect(taken.headers.get("idempotent-replayed")).toBeNull();
});
