import { expect, test } from "bun:test";
import type { Clock } from "../lib/clock.ts";
import { Client, controlPlaneUrl, type Fetch } from "./client.ts";

/** Time that passes only by sleeping. */
function fakeClock(): Clock {
  let now = 0;
  return {
    now: () => now,
    sleep: async (ms) => {
      now += ms + 1;
    },
  };
}

type Answer = (request: { url: string; init: RequestInit }) => Response | Error;

function clientOf(answers: Answer[]) {
  const requests: { url: string; init: RequestInit }[] = [];
  const fetch: Fetch = async (url, init) => {
    const answer = answers[Math.min(requests.length, answers.length - 1)];
    requests.push({ url, init });
    const result = answer?.({ url, init }) ?? new Error("no answer");
    if (result instanceof Error) throw result;
    return result;
  };
  return { requests, client: new Client({ url: "http://cp", fetch, clock: fakeClock() }) };
}

function failure(status: number, reason: string): Response {
  const error = { code: status, reason, message: `because ${reason}`, requestId: "req_1" };
  return Response.json({ error }, { status });
}

const sse = (text: string): Response =>
  new Response(text, { headers: { "content-type": "text/event-stream" } });

const log = (sequence: number): string =>
  `event: log\nid: ${sequence}\ndata: ${JSON.stringify({ sequence, time: 1, stream: "stdout", data: "YQ==", instance_id: "i" })}\n\n`;

const END = "event: end\ndata: {}\n\n";

async function sequences(client: Client): Promise<number[]> {
  const seen: number[] = [];
  for await (const line of client.logs("m", true)) seen.push(line.sequence);
  return seen;
}

test("a control plane that is not there is one line, after a short patience", async () => {
  const { client, requests } = clientOf([() => new Error("refused")]);
  expect(await client.hosts().catch(String)).toContain(
    "Cannot reach the control plane at http://cp",
  );
  await client.hosts().catch(() => undefined);
  expect(requests.length).toBeGreaterThan(2);
});

test("an error that cannot be mended by waiting is thrown at once, with the server's words", async () => {
  const { client, requests } = clientOf([() => failure(404, "MACHINE_NOT_FOUND")]);
  const error: unknown = await client.machine("web").catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({
    reason: "MACHINE_NOT_FOUND",
    message: "because MACHINE_NOT_FOUND",
  });
  expect(requests.length).toBe(1);
});

test("a create is tried again under the same idempotency key", async () => {
  const { client, requests } = clientOf([
    () => failure(503, "DATABASE_UNAVAILABLE"),
    () => new Error("reset"),
    () => failure(409, "NAME_TAKEN"),
  ]);
  await client.createMachine({ config: { image: "i" } }).catch(() => undefined);
  const keys = requests.map(({ init }) => new Headers(init.headers).get("idempotency-key"));
  expect(keys.length).toBe(3);
  expect(new Set(keys).size).toBe(1);
  expect(keys[0]).not.toBe(null);
});

test("output goes on after the last sequence when the stream is cut", async () => {
  const { client, requests } = clientOf([
    () => sse(log(1) + log(2)),
    () => new Error("refused"),
    () => sse(log(3) + END),
  ]);
  expect(await sequences(client)).toEqual([1, 2, 3]);
  const last = requests.map(({ init }) => new Headers(init.headers).get("last-event-id"));
  expect(last).toEqual([null, "2", "2"]);
});

test("a stream that stays cut off ends with LINK_LOST, not as if it were complete", async () => {
  const { client } = clientOf([() => sse(log(1)), () => sse("")]);
  expect(await sequences(client).catch(String)).toContain("cut off");
});

test("a wait that runs out is null", async () => {
  const { client, requests } = clientOf([() => failure(408, "WAIT_TIMEOUT")]);
  expect(await client.wait("web", ["stopped", "failed"], 5)).toBe(null);
  expect(requests[0]?.url).toBe("http://cp/v1/machines/web/wait?state=stopped%2Cfailed&timeout=5");
});

test("LEVERET_URL is checked and its last slash dropped", () => {
  expect(controlPlaneUrl({})).toBe("http://127.0.0.1:8080");
  expect(controlPlaneUrl({ LEVERET_URL: "https://cp/" })).toBe("https://cp");
  expect(() => controlPlaneUrl({ LEVERET_URL: "cp:8080" })).toThrow("LEVERET_URL");
});
