/**
 * Every route of the document, with no token, with the wrong project's token and
 * with too narrow a scope. The routes come from the document, so that a forgotten
 * one fails here.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { OPEN_PATHS } from "../../cp/http/auth.ts";
import type { App } from "../../cp/http/deps.ts";
import { createApp } from "../../cp/http/app.ts";
import { DEFAULT_PROJECT } from "../../proto/ids.ts";
import { CreatedToken, Project, ErrorBody } from "../../proto/rest.ts";
import { startApi, type Api } from "./kit/api.ts";

setDefaultTimeout(30_000);

type Route = { method: string; path: string; access: string | undefined };

/** A body that passes validation, for the routes that refuse none. */
const BODIES: Record<string, unknown> = {
  "POST /v1/machines": { config: { image: "busybox" } },
  "PATCH /v1/machines/{id}": { config: {} },
  "POST /v1/machines/{id}": { config: { image: "busybox" } },
  "POST /v1/machines/{id}/metadata/{key}": { value: "v" },
  "POST /v1/projects": { name: "other" },
  "PATCH /v1/projects/{id}": { quotas: {} },
  "POST /v1/tokens": { name: "x" },
  "POST /v1/images/pull": { image: "busybox" },
  "POST /v1/images/prune": {},
  "POST /v1/images/pin": { image: "busybox" },
  "POST /v1/registries": { registry: "reg.example", username: "u", password: "p" },
};
/** Routes of no one machine: with another project's token they answer, about that project. */
const OWN_ONLY = [
  "GET /v1/machines",
  "POST /v1/machines",
  "GET /v1/projects",
  "GET /v1/tokens",
  "POST /v1/tokens",
  "GET /v1/audit",
  "GET /v1/events",
  "GET /docs",
  "GET /v1/images",
  "POST /v1/images/pull",
  "GET /v1/registries",
  "POST /v1/registries",
];
/** It is about the caller's own archive, and there is none, or no hub to take it. */
const LOAD = "POST /v1/images/load";

let api: Api;
let app: App;
let routes: Route[] = [];
let machineId = "";
let tokenId = "";
const secrets = { other: "", reader: "", writer: "" };

beforeAll(async () => {
  api = await startApi();
  app = createApp(api.deps, "0");
  await api.addHost();
  const made = await api.call("POST", "/v1/machines", { config: { image: "busybox" } });
  machineId = String(made.body["id"]);
  const project = Project.parse((await api.call("POST", "/v1/projects", { name: "team" })).body);
  const token = async (scope: string, headers: Record<string, string> = {}) => {
    const answer = await api.call("POST", "/v1/tokens", { name: scope, scope }, { headers });
    return CreatedToken.parse(answer.body);
  };
  secrets.other = (await token("admin", { "leveret-project": project.name })).token;
  secrets.reader = (await token("read")).token;
  const writer = await token("write");
  secrets.writer = writer.token;
  tokenId = writer.id;
  routes = Object.entries(api.contract.document.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, { security }]) => ({
      method: method.toUpperCase(),
      path,
      access: security?.[0]?.["token"]?.[0],
    })),
  );
});
afterAll(() => api[Symbol.asyncDispose]());

const named = (route: Route): string => `${route.method} ${route.path}`;

async function ask(
  route: Route,
  secret: string | null,
): Promise<{ status: number; reason: string; text: string }> {
  const id = route.path.startsWith("/v1/tokens/") ? tokenId : machineId;
  const body = BODIES[named(route)];
  const response = await app.request(route.path.replaceAll("{id}", id).replaceAll("{key}", "k"), {
    method: route.method,
    headers: {
      ...(secret === null ? {} : { authorization: `Bearer ${secret}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  // A stream that never ends is not read: its status says enough.
  const streams = response.headers.get("content-type") === "text/event-stream";
  if (streams) await response.body?.cancel();
  const text = streams ? "" : await response.text();
  const reason = response.ok ? "" : ErrorBody.parse(JSON.parse(text)).error.reason;
  return { status: response.status, reason, text };
}

test("every route says what it needs, and only the health checks need nothing", () => {
  expect(routes.length).toBeGreaterThan(15);
  for (const route of routes)
    expect([named(route), route.access === undefined]).toEqual([
      named(route),
      OPEN_PATHS.includes(route.path),
    ]);
});

test("without a token, or with one that was never made, every route is UNAUTHENTICATED", async () => {
  for (const route of routes.filter(({ path }) => !OPEN_PATHS.includes(path)))
    for (const secret of [null, "x", `lvt_${"z".repeat(32)}`])
      expect([named(route), (await ask(route, secret)).reason]).toEqual([
        named(route),
        "UNAUTHENTICATED",
      ]);
});

test("with another project's token every route is refused or about that project", async () => {
  for (const route of routes.filter(({ path }) => !OPEN_PATHS.includes(path))) {
    const { reason, text } = await ask(route, secrets.other);
    if (OWN_ONLY.includes(named(route))) {
      expect([named(route), reason]).toEqual([named(route), ""]);
      // Its own audit names what it has asked for; nobody else's is in it.
      if (route.path === "/v1/audit") expect(text).not.toContain(DEFAULT_PROJECT);
      else for (const foreign of [machineId, tokenId]) expect(text).not.toContain(foreign);
    } else if (route.access?.startsWith("fleet_") === true) {
      expect([named(route), reason]).toEqual([named(route), "PERMISSION_DENIED"]);
    } else if (named(route) === LOAD) {
      expect([named(route), reason]).toEqual([LOAD, "BAD_REQUEST"]);
    } else {
      expect([named(route), reason]).toEqual([
        named(route),
        route.path.startsWith("/v1/machines") ? "MACHINE_NOT_FOUND" : "NOT_FOUND",
      ]);
    }
  }
});

test("with a narrower scope than the route needs it is PERMISSION_DENIED", async () => {
  for (const route of routes.filter(({ access }) => access !== undefined)) {
    const narrow = route.access?.endsWith("read") === true ? null : secrets.reader;
    if (narrow !== null)
      expect([named(route), (await ask(route, narrow)).reason]).toEqual([
        named(route),
        "PERMISSION_DENIED",
      ]);
    if (route.access?.endsWith("admin") === true)
      expect([named(route), (await ask(route, secrets.writer)).reason]).toEqual([
        named(route),
        "PERMISSION_DENIED",
      ]);
  }
});
