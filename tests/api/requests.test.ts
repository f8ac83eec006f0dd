/** What a request may not be, and how it is told. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { LIMITS } from "../../lib/limits.ts";
import { RequestId } from "../../proto/ids.ts";
import { ErrorBody } from "../../proto/rest.ts";
import { createApp } from "../../cp/http/app.ts";
import { AUTHORIZATION } from "../kit/token.ts";
import { startApi, type Api } from "./kit/api.ts";

setDefaultTimeout(30_000);

let api: Api;
beforeAll(async () => {
  api = await startApi();
});
afterAll(() => api[Symbol.asyncDispose]());

async function refusal(body: unknown): Promise<string> {
  const answer = await api.call("POST", "/v1/machines", body);
  expect(answer.status).toBe(400);
  expect(answer.body["error"]).toMatchObject({ code: 400, reason: "BAD_REQUEST" });
  return ErrorBody.parse(answer.body).error.message;
}

test("a field that is wrong is named by its path", async () => {
  const guest = (values: object): object => ({ config: { image: "a", guest: values } });
  expect(await refusal(guest({ cpus: 99 }))).toStartWith("config.guest.cpus: ");
  expect(await refusal(guest({ memory_mb: 1 }))).toStartWith("config.guest.memory_mb: ");
  expect(await refusal({ config: {} })).toStartWith("config.image: ");
  expect(await refusal({ config: { image: "a", typo: 1 } })).toContain("typo");
  expect(await refusal({ name: "Web_1", config: { image: "a" } })).toStartWith("name: ");
  expect(await refusal({ config: { image: "a", env: { "A=B": "1" } } })).toContain("config.env");
  expect(await refusal([])).not.toBe("");
});

test("sizes over several fields are bounded", async () => {
  const long = "x".repeat(LIMITS.argvBytes - 10);
  expect(await refusal({ config: { image: "a", init: { cmd: [long, long] } } })).toStartWith(
    "config.init: more than",
  );
  expect(await refusal({ config: { image: "a", env: { A: long, B: long } } })).toStartWith(
    "config.env: more than",
  );
  const env = Object.fromEntries(
    Array.from({ length: LIMITS.envEntries + 1 }, (_, n) => [`K${n}`, ""]),
  );
  expect(await refusal({ config: { image: "a", env } })).toStartWith("config.env: more than");
});

test("a text that the database cannot hold is the caller's error", async () => {
  expect(await refusal({ config: { image: "a\0b" } })).toContain("NUL");
});

test("a body that is no JSON, has another type, or is too large is refused", async () => {
  const post = (raw: string, type = "application/json") =>
    api.call("POST", "/v1/machines", undefined, { raw, headers: { "content-type": type } });
  expect((await post("{")).body["error"]).toMatchObject({ code: 400 });
  expect((await post("{}", "text/plain")).body["error"]).toMatchObject({
    message: expect.stringContaining("application/json"),
  });
  const large = JSON.stringify({ config: { image: "x".repeat(LIMITS.requestBodyBytes) } });
  expect((await post(large)).body["error"]).toMatchObject({
    message: expect.stringContaining("larger than"),
  });
});

test("an unknown route is NOT_FOUND in the usual form", async () => {
  const app = createApp(api.deps, "0");
  const response = await app.request("/v1/nothing", {
    method: "PUT",
    headers: AUTHORIZATION,
  });
  expect(response.status).toBe(404);
  expect(await response.json()).toMatchObject({
    error: { reason: "NOT_FOUND", message: "No route PUT /v1/nothing" },
  });
});

test("every answer carries a request id; the caller's own when it looks like one", async () => {
  const own = await api.call("GET", "/v1/hosts", undefined, {
    headers: { "x-request-id": "abc-1" },
  });
  expect(own.headers.get("x-request-id")).toBe("abc-1");
  const odd = await api.call("GET", "/v1/machines/none", undefined, {
    headers: { "x-request-id": "a b" },
  });
  const given = odd.headers.get("x-request-id") ?? "";
  expect(RequestId.is(given)).toBe(true);
  expect(odd.body["error"]).toMatchObject({ requestId: given });
});

test("health, readiness and hosts answer as documented", async () => {
  expect((await api.call("GET", "/healthz")).body).toEqual({ status: "ok" });
  expect((await api.call("GET", "/readyz")).body).toEqual({ status: "ok" });
  expect((await api.call("GET", "/v1/hosts/none")).body["error"]).toMatchObject({
    reason: "HOST_NOT_FOUND",
  });
  const id = await api.addHost();
  const host = (await api.call("GET", `/v1/hosts/${id}`)).body;
  expect(host).toMatchObject({ id, state: "ready", capacity: { cpus: 4 }, machines: 0 });
  expect((await api.call("GET", `/v1/hosts/${String(host["hostname"])}`)).body["id"]).toBe(id);
});

test("the document names the routes, the shapes and the data of the log stream", () => {
  const { paths, components } = api.contract.document;
  for (const path of ["/healthz", "/readyz", "/v1/hosts/{id}", "/v1/machines/{id}/logs"])
    expect(Object.keys(paths)).toContain(path);
  for (const name of ["Machine", "MachineConfig", "Host", "Error", "LogLine", "MachineEvent"])
    expect(Object.keys(components.schemas)).toContain(name);
});

test("a database that is away is 503, and so is readiness", async () => {
  await using gone = await startApi();
  await gone.database[Symbol.asyncDispose]();
  for (const path of ["/readyz", "/v1/hosts"]) {
    const answer = await gone.call("GET", path);
    expect(answer.body["error"]).toMatchObject({ code: 503, reason: "DATABASE_UNAVAILABLE" });
    expect(answer.headers.get("retry-after")).toBe("1");
  }
  expect((await gone.call("GET", "/healthz")).status).toBe(200);
});
