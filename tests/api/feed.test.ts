/** /v1/events, pages, /metrics and the reference page. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { z } from "zod";
import { serverEvents } from "../../cli/sse.ts";
import { createApp } from "../../cp/http/app.ts";
import type { App } from "../../cp/http/deps.ts";
import { addEvent, transact } from "../../cp/ops/deps.ts";
import { DEFAULT_PROJECT, MachineId } from "../../proto/ids.ts";
import { FeedEvent, Host, Machine } from "../../proto/rest.ts";
import { AUTHORIZATION } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { startApi, type Api } from "./kit/api.ts";

setDefaultTimeout(30_000);

let api: Api;
let app: App;
beforeAll(async () => {
  api = await startApi();
  app = createApp(api.deps, "0");
  await api.addHost({ cpus: 64, memoryMib: 64_000, diskMib: 200_000 });
});
afterAll(() => api[Symbol.asyncDispose]());

async function write(machineId: string, type: string, before?: () => Promise<void>): Promise<void> {
  await transact(api.deps, async (tx, effects) => {
    const machine = {
      id: machineId,
      projectId: DEFAULT_PROJECT,
      observedState: "started" as const,
    };
    await addEvent(tx, machine, { type, source: "system" });
    await before?.();
    effects.hosts.add("none");
  });
  api.deps.changes.publish({ kind: "machine", id: machineId, state: "started" });
}

/** Reads `count` events and goes away. */
async function read(query: string, count: number, last?: string) {
  const headers = { ...AUTHORIZATION, ...(last === undefined ? {} : { "last-event-id": last }) };
  const response = await app.request(`/v1/events${query}`, { headers });
  expect(response.status).toBe(200);
  const events: { id: string; type: string; machine: string }[] = [];
  for await (const { id, event, data } of serverEvents(response.body ?? new ReadableStream())) {
    if (event !== "event") throw new Error(data);
    const body = FeedEvent.parse(JSON.parse(data));
    events.push({ id: id ?? "", type: body.type, machine: body.machine_id });
    if (events.length === count) break;
  }
  return events;
}

test("a reader that comes back with Last-Event-ID gets each event once, in one order", async () => {
  const id = MachineId.create();
  for (let n = 0; n < 5; n += 1) await write(id, `n${n}`);
  const all = await read("?after=0.0", 5);
  expect(all.map(({ type }) => type)).toEqual(["n0", "n1", "n2", "n3", "n4"]);
  const rest = await read("", 3, all[1]?.id);
  expect(rest).toEqual(all.slice(2));
  expect(api.deps.changes.size).toBe(0);
});

test("an event that commits late is not passed by, though later ones commit before it", async () => {
  const slow = MachineId.create();
  const quick = MachineId.create();
  const start = (await read("?after=0.0", 1))[0]?.id;
  const reading = read("", 8, start);
  // Its sequence is the smaller one; it commits after the other is there.
  await write(slow, "slow", () => write(quick, "quick"));
  await write(quick, "after");
  await write(quick, "last");
  const types = (await reading).map(({ type }) => type);
  expect(types.slice(4).toSorted()).toEqual(["after", "last", "quick", "slow"]);
  expect((await read("?after=0.0", 9)).map(({ type }) => type).slice(1)).toEqual(types);
});

test("without a position the stream begins now, and one machine's can be had alone", async () => {
  const made = await api.call("POST", "/v1/machines", { config: { image: "busybox" } });
  const id = String(made.body["id"]);
  let seen: Awaited<ReturnType<typeof read>> | undefined;
  const reading = read(`?machine=${id}`, 1).then((events) => (seen = events));
  // Whenever "now" is: what was before it is not seen, what comes after it is.
  await until("an event", async () => {
    await write(MachineId.create(), "other");
    await write(id, "tick");
    return seen;
  });
  expect(await reading).toMatchObject([{ type: "tick", machine: id }]);
  const wrong = await app.request("/v1/events?after=x", { headers: AUTHORIZATION });
  expect(wrong.status).toBe(400);
});

async function pages<T extends { id: string }>(path: string, item: z.ZodType<T>, limit: number) {
  const ids: string[] = [];
  for (let cursor: string | null = "", n = 0; cursor !== null && n < 20; n += 1) {
    const more: string = cursor === "" ? "" : `&cursor=${cursor}`;
    const answer = await api.call("GET", `${path}?limit=${limit}${more}`);
    ids.push(
      ...z
        .array(item)
        .parse(answer.body)
        .map(({ id }) => id),
    );
    cursor = answer.headers.get("leveret-next-cursor");
  }
  return ids;
}

test("pages cover a list once, whatever is added meanwhile", async () => {
  for (let n = 0; n < 6; n += 1)
    await api.call("POST", "/v1/machines", { config: { image: "busybox" } });
  for (let n = 0; n < 4; n += 1) await api.addHost();
  const machines = await pages("/v1/machines", Machine, 3);
  expect(machines).toEqual(await pages("/v1/machines", Machine, 500));
  expect(new Set(machines).size).toBe(machines.length);
  const hosts = await pages("/v1/hosts", Host, 2);
  expect(hosts).toEqual(await pages("/v1/hosts", Host, 500));
  expect(hosts.length).toBe(5);
  expect((await api.call("GET", "/v1/machines?cursor=%27")).status).toBe(400);
});

test("metrics count requests by route and show the fleet", async () => {
  const ask = (path: string) => app.request(path, { headers: AUTHORIZATION });
  await ask("/v1/machines/mch_00000000000000000000");
  await ask("/v1/made-up");
  const text = await (await ask("/metrics")).text();
  expect(text).toContain('route="/v1/machines/:id",status="404"');
  expect(text).toContain('route="none",status="404"');
  expect(text).toContain('leveret_hosts{state="ready"} 5');
  expect(text).toMatch(/leveret_machines\{state="starting"\} [1-9]/);
  expect(text).toMatch(/leveret_committed\{resource="cpus"\} [1-9]/);
});

test("the reference names every route, loads nothing, and asks a browser for the token", async () => {
  const page = await app.request("/docs", { headers: AUTHORIZATION });
  const html = await page.text();
  for (const path of Object.keys(api.contract.document.paths)) expect(html).toContain(path);
  expect(html).not.toMatch(/<script|src=|@import|url\(|https?:\/\//);
  const challenge = await app.request("/docs");
  expect(challenge.headers.get("www-authenticate")).toStartWith("Basic");
  const secret = AUTHORIZATION.authorization.replace("Bearer ", "");
  const basic = `Basic ${Buffer.from(`any:${secret}`).toString("base64")}`;
  expect((await app.request("/docs", { headers: { authorization: basic } })).status).toBe(200);
  const elsewhere = await app.request("/v1/machines", { headers: { authorization: basic } });
  expect(elsewhere.status).toBe(401);
  expect((await app.request("/openapi.json")).status).toBe(401);
});
