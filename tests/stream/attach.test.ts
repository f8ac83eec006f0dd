/**
 * Sessions whose Attach comes to another replica than the one that asked for them, as behind
 * a load balancer: passed on to the owner of the host's stream, and refused where it would.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { Client } from "../../cli/client.ts";
import { clusterSecret } from "../../cp/db/queries/replicas.ts";
import { ATTACH_PATH } from "../../cp/hub/routed-attach.ts";
import type { ControlPlane } from "../../cp/server.ts";
import * as x509 from "../../lib/x509.ts";
import { LvError } from "../../proto/errors.ts";
import { AgentLink } from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId, SessionId } from "../../proto/ids.ts";
import { ErrorBody, type CreatedJoinToken } from "../../proto/rest.ts";
import { LoadedImage } from "../../proto/rest-images.ts";
import { failure } from "../kit/failure.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { createDatabase } from "../kit/postgres.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { AUTHORIZATION, TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { Balancer } from "./kit/balancer.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(60_000);

const MIB = 2 ** 20;
const COUNT = { image: "busybox", init: { cmd: ["count"] } };

type Url = { httpUrl: string };

let databaseUrl = "";
let root = "";
let owner: ControlPlane;
let other: ControlPlane;
beforeAll(async () => {
  databaseUrl = await createDatabase();
  root = mkdtempSync(join(tmpdir(), "leveret-attach-"));
  owner = await startPlane({ config: { databaseUrl } });
  other = await startPlane({ config: { databaseUrl } });
});
afterAll(async () => {
  await other[Symbol.asyncDispose]();
  await owner[Symbol.asyncDispose]();
  rmSync(root, { recursive: true, force: true });
});

const clientOf = ({ httpUrl }: Url): Client => new Client({ url: httpUrl, token: TEST_TOKEN });

async function relayed({ httpUrl }: Url): Promise<number> {
  const text = await (await fetch(`${httpUrl}/metrics`, { headers: AUTHORIZATION })).text();
  return Number(/^leveret_relayed_sessions (\d+)$/m.exec(text)?.[1]);
}

const untilRelayed = (count: number, ...planes: Url[]): Promise<unknown> =>
  until(`${count} relayed sessions`, async () =>
    (await Promise.all(planes.map(relayed))).every((one) => one === count),
  );

/** An agent whose stream is the owner's, and whose next connections go to another replica. */
async function behindBalancer(at: { grpcAddr: string }, rest: { grpcAddr: string }, see: Url) {
  const balancer = await Balancer.start(at.grpcAddr);
  const agent = await TestAgent.start(balancer.address);
  const { hostId } = agent.agent;
  await until("the host to be ready", async () => {
    const { body } = await call(see, "GET", `/v1/hosts/${hostId}`);
    return (body as { state?: string }).state === "ready";
  });
  balancer.to = rest.grpcAddr;
  const dispose = async (): Promise<void> => {
    await agent[Symbol.asyncDispose]();
    await balancer[Symbol.asyncDispose]();
    // Nothing is placed on it any more.
    await call(see, "POST", `/v1/hosts/${hostId}/cordon`);
  };
  return { agent, balancer, hostId, [Symbol.asyncDispose]: dispose };
}

/** Nothing lost, nothing twice. */
function expectLines(text: string): void {
  const lines = text.split("\n").slice(0, -1);
  expect(lines).toEqual(lines.map((_, n) => `line ${n}`));
}

async function read(client: Client, id: string, onLine = () => {}): Promise<string> {
  let text = "";
  for await (const line of client.logs(id, true)) {
    text += atob(line.data);
    onLine();
  }
  return text;
}

async function refusal(call: Promise<void>): Promise<string> {
  try {
    await call;
  } catch (error) {
    return LvError.from(error).reason;
  }
  throw new Error("Expected a rejection");
}

const send = (
  { httpUrl }: Url,
  body: string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>,
  host: string,
  signal?: AbortSignal,
): Promise<Response> =>
  fetch(`${httpUrl}/v1/images/load?tag=app&host=${host}`, {
    method: "POST",
    headers: AUTHORIZATION,
    body,
    ...(signal === undefined ? {} : { signal }),
  });

const uploads = ({ dir }: TestAgent): string[] => {
  const blobs = join(dir, "blobs", "sha256");
  return existsSync(blobs) ? readdirSync(blobs).filter((name) => name.startsWith("upload")) : [];
};

/** Says how much of it was taken. */
function endless(chunkBytes: number) {
  const state = { taken: 0 };
  const chunk = new Uint8Array(chunkBytes);
  const pull = (controller: ReadableStreamDefaultController<Uint8Array>): void => {
    state.taken += chunkBytes;
    controller.enqueue(chunk);
  };
  return { state, body: new ReadableStream<Uint8Array>({ pull }, { highWaterMark: 1 }) };
}

test("output is followed to its end, whichever replica is asked, and no line is lost", async () => {
  await using host = await behindBalancer(owner, other, owner);
  const { id } = await clientOf(owner).createMachine({ config: COUNT });
  const both = Promise.all([owner, other].map((plane) => read(clientOf(plane), id)));
  await untilRelayed(2, owner, other);
  await clientOf(other).stop(id);
  const [first = "", second = "-"] = await both;
  expectLines(first);
  expect(second).toBe(first);
  await untilRelayed(0, owner, other);
  await clientOf(owner).remove(id);
  await until("nothing left", () => host.agent.driver.running === 0);
});

test("an archive comes whole to its host, and the host's refusal comes back", async () => {
  await using host = await behindBalancer(owner, other, owner);
  for (const plane of [owner, other]) {
    const archive = Uint8Array.from(randomBytes(9 * MIB + 17));
    const [loaded] = LoadedImage.array().parse(
      await (await send(plane, archive, host.hostId)).json(),
    );
    const digest = `sha256:${new Bun.CryptoHasher("sha256").update(archive).digest("hex")}`;
    expect(loaded).toMatchObject({ host_id: host.hostId, digest, size: archive.length });
    const refused = await send(plane, "bad archive", host.hostId);
    expect(ErrorBody.parse(await refused.json()).error.reason).toBe("IMAGE_CORRUPT");
  }
  await untilRelayed(0, owner, other);
  expect(uploads(host.agent)).toEqual([]);
});

test("what a machine counts is read, and so is the host's refusal", async () => {
  await using host = await behindBalancer(owner, other, owner);
  const config = { image: "busybox", init: { cmd: ["idle"] } };
  const { id } = await clientOf(owner).createMachine({ config });
  await untilState(owner, id, "started");
  for (const plane of [owner, other])
    expect(await clientOf(plane).metrics(id)).toMatchObject({ instance_id: `${id}.1` });
  await clientOf(owner).stop(id);
  await untilState(owner, id, "stopped");
  expect((await failure(clientOf(other).metrics(id))).reason).toBe("STATE_CONFLICT");
  await untilRelayed(0, owner, other);
  await clientOf(owner).remove(id);
  await until("nothing left", () => host.agent.driver.running === 0);
});

test("a reader that goes away ends the session at both replicas and at the host", async () => {
  await using agent = await FakeAgent.connect(owner.grpcAddr);
  const gone = new AbortController();
  const { body } = endless(MIB);
  const answer = send(owner, body, agent.hostId, gone.signal).catch(() => "broken");
  const session = await until("the session", () => agent.sessions()[0]);
  // Returns when it is told that the session is over.
  const attached = agent.attach(session.sessionId, [], { address: other.grpcAddr });
  await untilRelayed(1, owner, other);
  gone.abort();
  await attached;
  expect(await answer).toBe("broken");
  await untilRelayed(0, owner, other);
});

test("a host that goes away ends the session at both replicas", async () => {
  await using agent = await FakeAgent.connect(owner.grpcAddr);
  const answer = send(owner, endless(MIB).body, agent.hostId);
  const session = await until("the session", () => agent.sessions()[0]);
  await agent
    .attach(session.sessionId, [], { address: other.grpcAddr, breakOff: true })
    .catch(() => undefined);
  expect(ErrorBody.parse(await (await answer).json()).error.reason).toBe("LINK_LOST");
  await untilRelayed(0, owner, other);
});

test("a host that takes no bytes holds up its sender through both replicas, and not memory", async () => {
  await using agent = await FakeAgent.connect(owner.grpcAddr);
  const gone = new AbortController();
  const { body, state } = endless(256 << 10);
  const answer = send(owner, body, agent.hostId, gone.signal).catch(() => "broken");
  const session = await until("the session", () => agent.sessions()[0]);
  const credit = { $typeName: "leveret.v1.SessionCredit", bytes: BigInt(MIB) } as const;
  const attached = agent.attach(session.sessionId, [{ case: "credit", value: credit }], {
    address: other.grpcAddr,
  });
  let before = -1;
  let same = 0;
  await until("the sender to stand still", () => {
    same = state.taken === before && state.taken > MIB ? same + 1 : 0;
    before = state.taken;
    return same > 20;
  });
  expect(state.taken).toBeLessThan(32 * MIB);
  gone.abort();
  await answer;
  await attached;
});

test("a session is its own host's and its own epoch's, at every replica", async () => {
  await using agent = await FakeAgent.connect(owner.grpcAddr);
  await using thief = await FakeAgent.connect(owner.grpcAddr);
  const gone = new AbortController();
  const answer = send(owner, endless(MIB).body, agent.hostId, gone.signal).catch(() => "broken");
  const { sessionId } = await until("the session", () => agent.sessions()[0]);
  const address = other.grpcAddr;
  expect(await refusal(thief.attach(sessionId, [], { address }))).toBe("NOT_FOUND");
  const epoch = agent.epoch + 1n;
  expect(await refusal(agent.attach(sessionId, [], { address, epoch }))).toBe("NOT_FOUND");
  for (const unknown of [SessionId.create(), "ses_?", "", "x".repeat(5_000), "ses_\0"])
    expect(await refusal(agent.attach(unknown, [], { address }))).toBe("NOT_FOUND");
  const nobody = { address, hostId: HostId.create() };
  expect(await refusal(agent.attach(sessionId, [], nobody))).toBe("NOT_FOUND");
  // None of them has taken it from the one it is for.
  const attached = agent.attach(sessionId, [], { address });
  await untilRelayed(1, owner, other);
  gone.abort();
  await attached;
  await answer;
});

test("the host is the certificate's, whatever the call says", async () => {
  const database = await createDatabase();
  const config = { databaseUrl: database, insecureLink: false, dataDir: root };
  await using one = await startPlane({ config });
  await using two = await startPlane({ config });
  const enrol = async () => {
    const { token } = (await call(one, "POST", "/v1/hosts/tokens")).body as CreatedJoinToken;
    const baseUrl = `https://${one.grpcAddr}`;
    const manager = new Http2SessionManager(baseUrl, {}, { rejectUnauthorized: false });
    const transport = createGrpcTransport({ baseUrl, sessionManager: manager });
    const key = await x509.createKey();
    const hostId = HostId.create();
    const csr = await x509.createRequest(key, "by hand");
    const reply = await createClient(AgentLink, transport).enroll({ token, hostId, csr });
    manager.abort();
    const identity = { key, cert: x509.pem(reply.certificate, "CERTIFICATE") };
    return FakeAgent.connect(one.grpcAddr, { hostId }, identity);
  };
  await using agent = await enrol();
  await using thief = await enrol();
  const gone = new AbortController();
  const answer = send(one, endless(MIB).body, agent.hostId, gone.signal).catch(() => "broken");
  const { sessionId } = await until("the session", () => agent.sessions()[0]);
  for (const { grpcAddr: address } of [one, two]) {
    const { hostId, epoch } = agent;
    const stolen = thief.attach(sessionId, [], { address, hostId, epoch });
    expect(await refusal(stolen)).toBe("NOT_FOUND");
  }
  const attached = agent.attach(sessionId, [], { address: two.grpcAddr });
  await untilRelayed(1, one, two);
  gone.abort();
  await attached;
  await answer;
});

test("the owner is killed in the middle: whoever waits is told, and nothing is left", async () => {
  const shared = await createDatabase();
  await using one = await PlaneChild.start(shared, root);
  await using two = await startPlane({ config: { databaseUrl: shared } });
  await using host = await behindBalancer(one, two, two);
  const { body } = endless(MIB);
  const answer = send(two, body, host.hostId);
  await until("some of it to arrive", () => uploads(host.agent).length === 1);
  await using agent = await FakeAgent.connect(one.grpcAddr);
  const second = send(two, endless(MIB).body, agent.hostId);
  const session = await until("the session", () => agent.sessions()[0]);
  const attached = refusal(agent.attach(session.sessionId, [], { address: two.grpcAddr }));
  await untilRelayed(2, one, two);
  await one.kill();
  for (const each of [answer, second])
    expect(ErrorBody.parse(await (await each).json()).error.reason).toBe("LINK_LOST");
  expect(await attached).toBe("LINK_LOST");
  await until("the rest to go", () => uploads(host.agent).length === 0);
  await untilRelayed(0, two);
});

test("the replica between is killed in the middle: output goes on through the other", async () => {
  const shared = await createDatabase();
  await using one = await startPlane({ config: { databaseUrl: shared } });
  await using two = await PlaneChild.start(shared, root);
  await using host = await behindBalancer(one, two, one);
  const { id } = await clientOf(one).createMachine({ config: COUNT });
  let lines = 0;
  const text = read(clientOf(one), id, () => (lines += 1));
  await until("some lines", () => lines > 3);
  expect(await relayed(two)).toBe(1);
  host.balancer.to = one.grpcAddr;
  await two.kill();
  const before = lines;
  await until("more lines", () => lines > before + 10);
  await clientOf(one).stop(id);
  expectLines(await text);
  await untilRelayed(0, one);
});

test("the way between replicas does not exist without their secret, and has no second stage", async () => {
  await using agent = await FakeAgent.connect(owner.grpcAddr);
  const secret = await clusterSecret(owner.deps.database.db, "");
  const query = new URLSearchParams({
    host: agent.hostId,
    session: SessionId.create(),
    epoch: "1",
  }).toString();
  const url = `${other.httpUrl}${ATTACH_PATH}?${query}`;
  const bearer = (value: string) => ({ headers: { authorization: `Bearer ${value}` } });
  // With the secret, but no WebSocket; with neither.
  for (const init of [bearer(secret), {}]) {
    const answer = await fetch(url, init);
    expect(answer.status).toBe(404);
    expect(ErrorBody.parse(await answer.json()).error.message).toBe(`No route GET ${ATTACH_PATH}`);
  }
  const socketUrl = url.replace("http", "ws");
  const strangers = [bearer(TEST_TOKEN), bearer(`${secret}0`), bearer(""), { headers: {} }];
  const why = strangers.map((init) => {
    const socket = new WebSocket(socketUrl, init);
    return new Promise<string>((resolve) => {
      socket.addEventListener("open", () => resolve("open"));
      socket.addEventListener("error", (event) => resolve((event as ErrorEvent).message));
    });
  });
  for (const text of await Promise.all(why)) expect(text).toEndWith("status code: 404");
  // The session may be the owner's; the replica that is asked says no, and asks nobody.
  const socket = new WebSocket(socketUrl, bearer(secret));
  const said = await new Promise<string>((resolve) => {
    socket.addEventListener("message", ({ data }: MessageEvent<string>) => resolve(data));
  });
  socket.terminate();
  expect(JSON.parse(said)).toMatchObject({ end: { reason: "NOT_FOUND" } });
  await untilRelayed(0, owner, other);
});

test("a replica that shuts down ends the sessions that pass through it", async () => {
  const config = { databaseUrl: await createDatabase() };
  const one = await startPlane({ config });
  const two = await startPlane({ config });
  await using agent = await FakeAgent.connect(one.grpcAddr);
  await using three = await startPlane({ config });
  const open = async (count: number, { grpcAddr: address }: { grpcAddr: string }) => {
    const answer = send(one, endless(MIB).body, agent.hostId).catch(() => null);
    const session = await until("the session", () => agent.sessions()[count]);
    const attached = agent.attach(session.sessionId, [], { address }).catch(() => "broken");
    await untilRelayed(1, one);
    return { answer, attached };
  };
  const between = await open(0, two);
  await two[Symbol.asyncDispose]();
  const answer = await between.answer;
  expect(ErrorBody.parse(await answer?.json()).error.reason).toBe("LINK_LOST");
  await between.attached;
  await untilRelayed(0, one, three);
  const owned = await open(1, three);
  await untilRelayed(1, three);
  await one[Symbol.asyncDispose]();
  await owned.answer;
  await owned.attached;
  await untilRelayed(0, three);
});
