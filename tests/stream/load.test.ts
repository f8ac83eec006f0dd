/** Archives on their way from a request to hosts: whole, in bounded memory, and broken off. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { ErrorBody } from "../../proto/rest.ts";
import { LoadedImage } from "../../proto/rest-images.ts";
import { createDatabase } from "../kit/postgres.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { AUTHORIZATION } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { World } from "../kit/world.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, startPlane } from "./kit/plane.ts";

setDefaultTimeout(60_000);

const MIB = 2 ** 20;

/** A body that counts what was taken from it; `stop` breaks it off. */
function counted(totalBytes: number, chunkBytes: number) {
  const state = { taken: 0, hash: new Bun.CryptoHasher("sha256") };
  const body = new ReadableStream<Uint8Array>(
    {
      pull: (controller) => {
        const size = Math.min(chunkBytes, totalBytes - state.taken);
        if (size <= 0) return controller.close();
        const chunk = new Uint8Array(size).fill(state.taken % 251);
        state.hash.update(chunk);
        state.taken += size;
        controller.enqueue(chunk);
      },
    },
    { highWaterMark: 1 },
  );
  return { body, state };
}

const send = (
  url: string,
  body: string | ReadableStream<Uint8Array>,
  signal?: AbortSignal,
  headers: Record<string, string> = {},
): Promise<Response> =>
  fetch(`${url}/v1/images/load?tag=app`, {
    method: "POST",
    headers: { ...AUTHORIZATION, ...headers },
    body,
    ...(signal === undefined ? {} : { signal }),
  });

const uploads = (agents: { dir: string }[]): string[] =>
  agents.flatMap(({ dir }) => {
    const blobs = join(dir, "blobs", "sha256");
    return existsSync(blobs) ? readdirSync(blobs).filter((name) => name.startsWith("upload")) : [];
  });

test("an archive comes whole to every host, in chunks of any size", async () => {
  await using world = await World.create({ agents: 2 });
  for (const chunkBytes of [1_000, 65_536, 3 * MIB]) {
    const { body, state } = counted(5 * MIB + 17, chunkBytes);
    const answer = await send(world.plane.httpUrl, body);
    const loaded = LoadedImage.array().parse(await answer.json());
    expect(loaded.map(({ host_name: name }) => name).toSorted()).toEqual(["host-0", "host-1"]);
    const digest = `sha256:${state.hash.digest("hex")}`;
    for (const one of loaded)
      expect(one).toMatchObject({
        digest,
        size: 5 * MIB + 17,
        reference: `localhost/app@${digest}`,
        error_reason: null,
      });
  }
  expect(uploads(world.agents)).toEqual([]);
});

test("a host that refuses the archive says why, and keeps nothing of it", async () => {
  await using world = await World.create();
  const answer = await send(world.plane.httpUrl, "bad archive");
  expect(answer.status).toBe(422);
  expect(ErrorBody.parse(await answer.json()).error.reason).toBe("IMAGE_CORRUPT");
  expect(uploads(world.agents)).toEqual([]);
});

test("an upload that breaks off leaves nothing on the host", async () => {
  await using world = await World.create();
  const gone = new AbortController();
  const sent = counted(Infinity, MIB);
  const answer = send(world.plane.httpUrl, sent.body, gone.signal).catch(() => "broken");
  await until(
    "some of it to arrive",
    () => uploads(world.agents).length === 1 && sent.state.taken > MIB,
  );
  gone.abort();
  expect(await answer).toBe("broken");
  await until("the rest to go", () => uploads(world.agents).length === 0);
  expect(world.agent.images.loads).toEqual([]);
});

test("an archive is loaded once under its Idempotency-Key, and a repetition is not read", async () => {
  await using world = await World.create();
  const { httpUrl } = world.plane;
  const ask = (body: string | ReadableStream<Uint8Array>): Promise<Response> =>
    send(httpUrl, body, undefined, { "idempotency-key": "once" });
  const reasonOf = async (answer: Response): Promise<string> =>
    ErrorBody.parse(await answer.json()).error.reason;
  // One that fails gives the key back.
  expect(await reasonOf(await ask("bad archive"))).toBe("IMAGE_CORRUPT");
  let more: (chunk: Uint8Array | null) => void = () => undefined;
  const slow = new ReadableStream<Uint8Array>({
    start: (controller) => {
      more = (chunk) => (chunk === null ? controller.close() : controller.enqueue(chunk));
    },
  });
  const first = ask(slow);
  more(new Uint8Array(MIB));
  await until("some of it to arrive", () => uploads(world.agents).length === 1);
  expect(await reasonOf(await ask(counted(MIB, MIB).body))).toBe("STATE_CONFLICT");
  more(null);
  const loaded: unknown = await (await first).json();
  const long = counted(1024 * MIB, 64 << 10);
  const again = await ask(long.body);
  expect(again.headers.get("idempotent-replayed")).toBe("true");
  expect(await again.json()).toEqual(loaded);
  expect(long.state.taken).toBeLessThan(32 * MIB);
  expect(world.agent.images.loads.map(({ length }) => length)).toEqual(["bad archive".length, MIB]);
  expect(await reasonOf(await ask("an archive of another length"))).toBe("IDEMPOTENCY_MISMATCH");
});

test("a host that fails to take an archive gives its key back, though others took it", async () => {
  await using world = await World.create({ agents: 2 });
  const ask = async (): Promise<string[]> => {
    const key = { "idempotency-key": "both" };
    const answer = await send(world.plane.httpUrl, "an archive", undefined, key);
    expect(answer.headers.get("idempotent-replayed")).toBeNull();
    const loaded = LoadedImage.array().parse(await answer.json());
    return loaded.flatMap(({ error_reason: reason }) => reason ?? []);
  };
  const [broken] = world.agents;
  if (broken === undefined) throw new Error("no agent");
  const { images } = broken;
  const load = images.load.bind(images);
  images.load = () => Promise.reject(new LvError("DISK_FULL", "no room"));
  expect(await ask()).toEqual(["DISK_FULL"]);
  images.load = load;
  expect(await ask()).toEqual([]);
});

test("a host that does not take the bytes holds up its sender, and not memory", async () => {
  await using plane = await startPlane();
  await using agent = await FakeAgent.connect(plane.grpcAddr);
  const gone = new AbortController();
  const { body, state } = counted(1024 * MIB, 256 * 1024);
  const answer = send(plane.httpUrl, body, gone.signal).catch(() => "broken");
  const session = await until("the session", () => agent.sessions()[0]);
  const attached = agent.attach(session.sessionId, []);
  let before = -1;
  let same = 0;
  await until("the sender to stand still", () => {
    same = state.taken === before ? same + 1 : 0;
    before = state.taken;
    return same > 20;
  });
  // What lies in the sockets of both sides, and a chunk here and there.
  expect(state.taken).toBeLessThan(32 * MIB);
  gone.abort();
  expect(await answer).toBe("broken");
  await attached;
});

test("an archive finds its host through another replica, and so does the host's refusal", async () => {
  const databaseUrl = await createDatabase();
  await using owner = await startPlane({ config: { databaseUrl } });
  await using asked = await startPlane({ config: { databaseUrl } });
  await using agent = await TestAgent.start(owner.grpcAddr);
  await until("the host to be ready", async () => {
    const hosts = await call(asked, "GET", "/v1/hosts");
    return (hosts.body as { state: string }[])[0]?.state === "ready";
  });
  const { body, state } = counted(5 * MIB + 17, 100_000);
  const [loaded] = LoadedImage.array().parse(await (await send(asked.httpUrl, body)).json());
  expect(loaded).toMatchObject({
    host_id: agent.agent.hostId,
    digest: `sha256:${state.hash.digest("hex")}`,
    size: 5 * MIB + 17,
  });
  const refused = await send(asked.httpUrl, "bad archive");
  expect(ErrorBody.parse(await refused.json()).error.reason).toBe("IMAGE_CORRUPT");
  const gone = new AbortController();
  const endless = counted(Infinity, MIB);
  const answer = send(asked.httpUrl, endless.body, gone.signal).catch(() => "broken");
  await until("some of it to arrive", () => uploads([agent]).length === 1);
  // The owner ends in the middle: nobody waits for it.
  await agent.stop();
  const ended = await answer;
  if (typeof ended === "string") throw new Error("the asked replica gave no answer");
  expect(ErrorBody.parse(await ended.json()).error.reason).toBe("LINK_LOST");
  gone.abort();
  const stranger = await fetch(`${owner.httpUrl}/internal/load?host=x`, {
    method: "POST",
    body: "x",
  });
  expect(stranger.status).toBe(404);
});
