import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { openDatabase } from "../../cp/db/index.ts";
import { createApp } from "../../cp/http/app.ts";
import { firstToken, TokenDirectory } from "../../cp/ops/tokens.ts";
import { systemClock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import { AuditEntry, CreatedToken } from "../../proto/rest.ts";
import { createDatabase } from "../kit/postgres.ts";
import { startApi, type Api } from "./kit/api.ts";
import { z } from "zod";

setDefaultTimeout(30_000);

let api: Api;
beforeAll(async () => {
  api = await startApi();
  await api.addHost({ cpus: 32, memoryMib: 16_384, diskMib: 200_000 });
});
afterAll(() => api[Symbol.asyncDispose]());

const config = { image: "busybox" };
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

async function makeToken(body: object, headers: Record<string, string> = {}) {
  return CreatedToken.parse((await api.call("POST", "/v1/tokens", body, { headers })).body);
}

test("the first start makes one token, in a file for its user only, and never another", async () => {
  const dir = mkdtempSync(join(tmpdir(), "lev-first-"));
  const database = await openDatabase(await createDatabase());
  try {
    const file = join(dir, "cp", "admin-token");
    const options = { file, given: null, onUnwritable: () => undefined };
    const made = await Promise.all([1, 2, 3].map(() => firstToken(database, options)));
    const [secret] = made.filter((each) => each !== null);
    expect(made.filter((each) => each !== null).length).toBe(1);
    expect(readFileSync(file, "utf8")).toBe(`${String(secret)}\n`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const directory = new TokenDirectory({ database, clock: systemClock });
    expect(await directory.check(String(secret))).toMatchObject({
      scope: "admin",
      projectId: null,
    });
    // The secret itself is nowhere in the database.
    const [row] = await database.db.execute(sql`select to_json(tokens)::text as text from tokens`);
    expect(String(row?.["text"])).not.toContain(String(secret));
  } finally {
    await database[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  }
});

test("a first start that was killed between file and database goes on with the file's token", async () => {
  const dir = mkdtempSync(join(tmpdir(), "lev-first-"));
  const file = join(dir, "admin-token");
  const [lost, database] = await Promise.all(
    [1, 2].map(async () => openDatabase(await createDatabase())),
  );
  if (lost === undefined || database === undefined) throw new Error("no database");
  try {
    const before = await firstToken(lost, { file, given: null, onUnwritable: () => undefined });
    expect(existsSync(file)).toBe(true);
    const after = await firstToken(database, { file, given: null, onUnwritable: () => undefined });
    expect(after).toBe(before);
  } finally {
    await lost[Symbol.asyncDispose]();
    await database[Symbol.asyncDispose]();
    rmSync(dir, { recursive: true, force: true });
  }
});

test("a revoked token is refused at once, an expired one by the database's clock", async () => {
  const token = await makeToken({ name: "short", scope: "read" });
  const ask = () => api.call("GET", "/v1/machines", undefined, { headers: bearer(token.token) });
  expect((await ask()).status).toBe(200);
  expect((await api.call("DELETE", `/v1/tokens/${token.id}`)).body["revoked_at"]).not.toBeNull();
  expect((await ask()).body["error"]).toMatchObject({ code: 401, reason: "UNAUTHENTICATED" });

  const expiring = await makeToken({ name: "old", scope: "read", expires_in: 3_600 });
  await api.database.db.execute(
    sql`update tokens set expires_at = now() - interval '1 second' where id = ${expiring.id}`,
  );
  const late = await api.call("GET", "/v1/machines", undefined, {
    headers: bearer(expiring.token),
  });
  expect(late.status).toBe(401);
});

test("a project's admin makes no token of the fleet and sees no other project's", async () => {
  await api.call("POST", "/v1/projects", { name: "small" });
  const headers = { "leveret-project": "small" };
  const admin = await makeToken({ name: "admin", scope: "admin" }, headers);
  const as = { headers: bearer(admin.token) };
  const fleet = await api.call("POST", "/v1/tokens", { name: "x", fleet: true }, as);
  expect(fleet.body["error"]).toMatchObject({ reason: "PERMISSION_DENIED" });
  const listed = JSON.stringify((await api.call("GET", "/v1/tokens", undefined, as)).body);
  expect(listed).toContain(admin.id);
  expect(listed).not.toContain("first-admin");
  const elsewhere = { headers: { ...as.headers, "leveret-project": "default" } };
  const foreign = await api.call("GET", "/v1/machines", undefined, elsewhere);
  expect(foreign.body["error"]).toMatchObject({ reason: "NOT_FOUND" });
});

test("names and idempotency keys are a project's own", async () => {
  await api.call("POST", "/v1/projects", { name: "twin" });
  const key = { "idempotency-key": "same" };
  const here = await api.call("POST", "/v1/machines", { name: "web", config }, { headers: key });
  const headers = { ...key, "leveret-project": "twin" };
  const there = await api.call("POST", "/v1/machines", { name: "web", config }, { headers });
  expect([here.status, there.status]).toEqual([201, 201]);
  expect(there.body["id"]).not.toBe(here.body["id"]);
  const found = await api.call("GET", "/v1/machines/web", undefined, { headers });
  expect(found.body["id"]).toBe(there.body["id"]);
  const removal = await api.call("DELETE", "/v1/projects/twin");
  expect(removal.body["error"]).toMatchObject({ reason: "STATE_CONFLICT" });
});

test("a quota holds under concurrency, and leaves nothing of what it refuses", async () => {
  await api.call("POST", "/v1/projects", { name: "tight", quotas: { machines: 3, cpus: 2 } });
  const headers = { "leveret-project": "tight" };
  const answers = await Promise.all(
    Array.from({ length: 6 }, () => api.call("POST", "/v1/machines", { config }, { headers })),
  );
  expect(answers.filter(({ status }) => status === 201).length).toBe(2);
  const [refused] = answers.filter(({ status }) => status !== 201);
  expect(refused?.body["error"]).toMatchObject({
    code: 403,
    reason: "QUOTA_EXCEEDED",
    message: 'Project "tight" may have 2 cpus, has 2 and asks for 1 more',
  });
  const listed = await api.call("GET", "/v1/machines", undefined, { headers });
  expect(z.array(z.unknown()).parse(listed.body).length).toBe(2);
  await api.call("PATCH", "/v1/projects/tight", { quotas: { cpus: null } });
  expect((await api.call("POST", "/v1/machines", { config }, { headers })).status).toBe(201);
  const over = await api.call("POST", "/v1/machines", { config }, { headers });
  expect(over.body["error"]).toMatchObject({ message: expect.stringContaining("3 machines") });
});

test("what changes something is written down, refusals too, and read in pages", async () => {
  const reader = await makeToken({ name: "reader", scope: "read" });
  const made = await api.call("POST", "/v1/machines", { config });
  const path = `/v1/machines/${String(made.body["id"])}`;
  await api.call("DELETE", path);
  const headers = bearer(reader.token);
  expect((await api.call("POST", "/v1/machines", { config }, { headers })).status).toBe(403);
  const first = await api.call("GET", "/v1/audit?limit=1");
  const cursor = first.headers.get("leveret-next-cursor") ?? "";
  const rest = await api.call("GET", `/v1/audit?cursor=${cursor}`);
  const [entry] = z.array(AuditEntry).parse(first.body);
  const [older] = z.array(AuditEntry).parse(rest.body);
  expect(entry).toMatchObject({ method: "POST", status: 403, token_id: reader.id });
  expect(older).toMatchObject({ method: "DELETE", path, status: 200 });
});

test("more requests than the limit are LIMIT_EXCEEDED with a time to come back", async () => {
  // A clock that stands still: nothing is refilled.
  const app = createApp({ ...api.deps, clock: { ...systemClock, now: () => 0 } }, "0");
  const { token } = await makeToken({ name: "busy", scope: "read" });
  let response = new Response();
  for (let n = 0; n <= LIMITS.requestsBurst; n += 1)
    response = await app.request("/v1/nothing", { headers: bearer(token) });
  expect(response.status).toBe(429);
  expect(response.headers.get("retry-after")).toBe("1");
  expect(await response.json()).toMatchObject({ error: { reason: "LIMIT_EXCEEDED" } });
});
