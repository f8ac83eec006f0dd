import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { z } from "zod";
import { Machine } from "../../proto/rest.ts";
import { storeReport } from "../../cp/ops/report.ts";
import { startApi, type Api } from "./kit/api.ts";

setDefaultTimeout(30_000);

let api: Api;
let hostId = "";
beforeAll(async () => {
  api = await startApi();
  hostId = await api.addHost({ cpus: 32, memoryMib: 16_384, diskMib: 200_000 });
});
afterAll(() => api[Symbol.asyncDispose]());

const config = { image: "busybox" };
const create = (body: unknown = { config }, headers: Record<string, string> = {}) =>
  api.call("POST", "/v1/machines", body, { headers });

/** As if the host had said it. */
async function report(id: string, state: "started" | "stopped" | "failed" | "destroyed") {
  const { body } = await api.call("GET", `/v1/machines/${id}`);
  const row = { generation: body["version"] ?? 1, incarnation: 1 };
  const outcome = await storeReport(api.deps, { hostId, epoch: 1 }, id, {
    state,
    generation: Number(row.generation),
    incarnation: row.incarnation,
    sequence: ++sequence,
    reason: null,
    message: null,
    exit: state === "stopped" ? { code: 3, signal: 0 } : null,
    imageDigest: `sha256:${"a".repeat(64)}`,
    bootUs: 1_000,
    startedAtMs: 1_000,
    stoppedAtMs: null,
  });
  expect(outcome).toBe("stored");
}
let sequence = 0;

test("a machine is created with its defaults, placed, and its host is woken", async () => {
  const { status, body } = await create({ name: "first", config });
  expect(status).toBe(201);
  expect(body).toMatchObject({
    name: "first",
    state: "starting",
    desired_state: "started",
    host_id: hostId,
    config: { image: "busybox", guest: { cpus: 1, memory_mb: 256, disk_mb: 1024 }, env: {} },
    exit_code: null,
    status_reason: null,
  });
  expect(api.woken.at(-1)).toBe(hostId);
  const { body: shown } = await api.call("GET", "/v1/machines/first");
  expect(shown["events"]).toMatchObject([
    { type: "start", status: "starting", source: "user" },
    { type: "create", status: "created", source: "user" },
  ]);
});

test("a machine is found by id, by name and by the beginning of its id", async () => {
  const { body } = await create({ name: "found", config });
  const id = String(body["id"]);
  for (const reference of [id, "found", id.slice(0, 18), id.slice(4, 18)])
    expect((await api.call("GET", `/v1/machines/${reference}`)).body["id"]).toBe(id);
  expect((await api.call("GET", "/v1/machines/mch_")).body["error"]).toMatchObject({
    code: 409,
    reason: "NAME_AMBIGUOUS",
  });
  for (const missing of ["nobody", "mch_00000000000000000000", "%00", "%25", "a%2Fb"])
    expect(
      (await api.call("GET", `/v1/machines/${missing}`, undefined)).body["error"],
    ).toMatchObject({ reason: "MACHINE_NOT_FOUND" });
});

test("a name that is taken is refused and leaves nothing, and is free after destroy", async () => {
  const first = await create({ name: "taken", config });
  const before = (await api.call("GET", `/v1/hosts/${hostId}`)).body;
  const second = await create({ name: "taken", config });
  expect(second.status).toBe(409);
  expect(second.body["error"]).toMatchObject({
    reason: "NAME_TAKEN",
    message: expect.stringContaining(`"taken" is taken by ${String(first.body["id"])}`),
  });
  expect((await api.call("GET", `/v1/hosts/${hostId}`)).body).toEqual(before);
  await api.call("DELETE", "/v1/machines/taken");
  const third = await create({ name: "taken", config });
  expect(third.status).toBe(201);
  // The name now means the new one.
  expect((await api.call("GET", "/v1/machines/taken")).body["id"]).toBe(third.body["id"]);
});

test("more than any host has is kept as failed, with the reason and the counts", async () => {
  const { status, body } = await create({
    config: { ...config, guest: { memory_mb: 64_000 } },
    on_no_capacity: "fail",
  });
  expect(status).toBe(201);
  expect(body).toMatchObject({
    state: "failed",
    desired_state: "stopped",
    status_reason: "NO_CAPACITY",
    status_message: "No host has room for 64000 MiB: 1 host: 1 memory",
    host_id: null,
  });
  const id = String(body["id"]);
  expect((await api.call("POST", `/v1/machines/${id}/start`)).body["error"]).toMatchObject({
    reason: "NO_CAPACITY",
    code: 422,
  });
  expect((await api.call("POST", `/v1/machines/${id}/stop`)).body).toMatchObject({
    state: "failed",
  });
  expect((await api.call("DELETE", `/v1/machines/${id}`)).body).toMatchObject({
    state: "destroyed",
  });
});

test("the same Idempotency-Key returns the same machine, at the same time too", async () => {
  const key = { "idempotency-key": "once" };
  const answers = await Promise.all(
    Array.from({ length: 8 }, () => create({ name: "once", config }, key)),
  );
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201]));
  expect(new Set(answers.map(({ body }) => body["id"])).size).toBe(1);
  const other = await create({ name: "twice", config }, key);
  expect(other.body["error"]).toMatchObject({ code: 409, reason: "IDEMPOTENCY_MISMATCH" });
});

test("a request that failed does not use up its Idempotency-Key", async () => {
  await create({ name: "holder", config });
  const key = { "idempotency-key": "again" };
  expect((await create({ name: "holder", config }, key)).status).toBe(409);
  expect((await create({ name: "free", config }, key)).status).toBe(201);
});

test("start and stop are refused or ignored by state", async () => {
  const id = String((await create()).body["id"]);
  expect((await api.call("POST", `/v1/machines/${id}/start`)).body).toMatchObject({
    state: "starting",
    version: 1,
  });
  await report(id, "started");
  const stopping = await api.call("POST", `/v1/machines/${id}/stop`, { signal: 9, timeout: 0 });
  expect(stopping.body).toMatchObject({ state: "stopping", desired_state: "stopped" });
  await api.call("DELETE", `/v1/machines/${id}`);
  for (const verb of ["start", "stop"])
    expect((await api.call("POST", `/v1/machines/${id}/${verb}`)).body["error"]).toMatchObject({
      code: 409,
      reason: "STATE_CONFLICT",
    });
  expect((await api.call("DELETE", `/v1/machines/${id}`)).body).toMatchObject({
    state: "destroying",
  });
});

test("the list hides what is destroyed, and filters by state and name", async () => {
  const id = String((await create({ name: "listed", config })).body["id"]);
  const ids = async (query: string): Promise<unknown[]> =>
    z
      .array(Machine)
      .parse((await api.call("GET", `/v1/machines${query}`)).body)
      .map((machine) => machine.id);
  expect((await ids(""))[0]).toBe(id);
  expect(await ids("?name=listed")).toEqual([id]);
  expect(await ids("?state=starting,started&limit=1")).toEqual([id]);
  await api.call("DELETE", `/v1/machines/${id}`);
  await storeReport(api.deps, { hostId, epoch: 1 }, id, {
    state: "destroyed",
    generation: 2,
    incarnation: 1,
    sequence: 1,
    reason: null,
    message: null,
    exit: null,
    imageDigest: null,
    bootUs: null,
    startedAtMs: null,
    stoppedAtMs: null,
  });
  expect(await ids("?name=listed")).toEqual([]);
  expect(await ids("?state=destroyed")).toContain(id);
  expect((await api.call("GET", `/v1/machines/${id}`)).body).toMatchObject({ state: "destroyed" });
});

test("wait answers at once, in time, or with what makes it hopeless", async () => {
  const id = String((await create()).body["id"]);
  const wait = (query: string) => api.call("GET", `/v1/machines/${id}/wait?${query}`);
  expect((await wait("state=starting,started")).body).toMatchObject({ state: "starting" });
  expect((await wait("state=started&timeout=0")).body["error"]).toMatchObject({
    code: 408,
    reason: "WAIT_TIMEOUT",
  });
  expect((await wait("state=running")).body["error"]).toMatchObject({ reason: "BAD_REQUEST" });
  expect((await wait("timeout=301")).status).toBe(400);
  const waiting = wait("state=destroyed&timeout=20");
  await api.call("DELETE", `/v1/machines/${id}`);
  expect((await wait("state=started")).body["error"]).toMatchObject({ reason: "STATE_CONFLICT" });
  await storeReport(api.deps, { hostId, epoch: 1 }, id, {
    state: "destroyed",
    generation: 2,
    incarnation: 1,
    sequence: 1,
    reason: null,
    message: null,
    exit: null,
    imageDigest: null,
    bootUs: null,
    startedAtMs: null,
    stoppedAtMs: null,
  });
  expect((await waiting).body).toMatchObject({ state: "destroyed" });
  expect(api.deps.changes.size).toBe(0);
});
