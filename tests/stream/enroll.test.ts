/** The link with certificates: how a host gets one, and who is kept out. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { createHash, X509Certificate } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ControlPlane } from "../../cp/server.ts";
import { systemClock } from "../../lib/clock.ts";
import * as x509 from "../../lib/x509.ts";
import { AgentLink } from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId } from "../../proto/ids.ts";
import { HUB_URI, parseJoinToken } from "../../proto/identity.ts";
import type { CreatedJoinToken, Host } from "../../proto/rest.ts";
import { failure } from "../kit/failure.ts";
import { createDatabase } from "../kit/postgres.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { until } from "../kit/until.ts";
import { call, createMachine, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(30_000);

let dataDir = "";
let plane: ControlPlane;
beforeAll(async () => {
  dataDir = mkdtempSync(join(tmpdir(), "leveret-enroll-"));
  plane = await startPlane({ config: { insecureLink: false, dataDir } });
});
afterAll(async () => {
  await plane[Symbol.asyncDispose]();
  rmSync(dataDir, { recursive: true, force: true });
});

async function joinToken(expiresIn?: number, on = plane): Promise<string> {
  const body = expiresIn === undefined ? undefined : { expires_in: expiresIn };
  const reply = await call(on, "POST", "/v1/hosts/tokens", body);
  expect(reply.status).toBe(201);
  return (reply.body as CreatedJoinToken).token;
}

const secure = (token: string | null) => ({ config: { insecureLink: false, joinToken: token } });

async function stateOf(hostId: string): Promise<Host["state"] | undefined> {
  return ((await call(plane, "GET", `/v1/hosts/${hostId}`)).body as Partial<Host>).state;
}

function untilReady(agent: TestAgent): Promise<unknown> {
  const { hostId } = agent.agent;
  return until("the host to be ready", async () => (await stateOf(hostId)) === "ready");
}

type Pem = { ca?: string; cert?: string; key?: string; anyName?: boolean };

/** Speaks to the hub with whatever certificate, or none. */
function speak(pem: Pem = {}) {
  const baseUrl = `https://${plane.grpcAddr}`;
  const { anyName = true, ...tls } = pem;
  const manager = new Http2SessionManager(
    baseUrl,
    {},
    anyName ? { rejectUnauthorized: false, ...tls } : tls,
  );
  const rpc = createClient(AgentLink, createGrpcTransport({ baseUrl, sessionManager: manager }));
  return { rpc, [Symbol.dispose]: () => manager.abort() };
}

async function connectError(pem: Pem): Promise<Code | undefined> {
  using link = speak(pem);
  const frames = link.rpc.connect(
    (async function* () {
      yield* [];
      await Promise.resolve();
    })(),
  );
  try {
    for await (const _ of frames) return undefined;
    return undefined;
  } catch (error) {
    return (error as { code: Code }).code;
  }
}

/** A host's identity that was got by hand. */
async function enrolByHand(hostId: string, token: string, key?: string) {
  const keyPem = key ?? (await x509.createKey());
  using link = speak();
  const csr = await x509.createRequest(keyPem, "by hand");
  const reply = await link.rpc.enroll({ token, hostId, csr });
  return { keyPem, cert: x509.pem(reply.certificate, "CERTIFICATE"), reply };
}

test("an agent with a join token enrolls, runs machines and serves logs, all over mTLS", async () => {
  await using agent = await TestAgent.start(plane.grpcAddr, secure(await joinToken()));
  await untilReady(agent);
  const machine = await createMachine(plane);
  await untilState(plane, machine.id, "started");
  const logs = await call(plane, "GET", `/v1/machines/${machine.id}`);
  expect(logs.status).toBe(200);
  const followed = await fetch(`${plane.httpUrl}/v1/machines/${machine.id}/logs`, {
    headers: { authorization: `Bearer lvt_${"0".repeat(31)}1` },
  });
  expect(await followed.text()).toContain("event: end");
  for (const file of ["key.pem", "certificate.pem", "ca.pem"])
    expect(statSync(join(agent.dir, "identity", file)).mode & 0o777).toBe(0o600);
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
  await untilState(plane, machine.id, "destroyed");
});

test("the certificate begins an hour ago, lasts 30 days and names the host and nothing else", async () => {
  const hostId = HostId.create();
  const { cert } = await enrolByHand(hostId, await joinToken());
  const certificate = new X509Certificate(cert);
  const now = Date.now();
  expect(Date.parse(certificate.validFrom)).toBeLessThan(now - 50 * 60_000);
  expect(Date.parse(certificate.validTo) - now).toBeGreaterThan(29.9 * 86_400_000);
  expect(certificate.subjectAltName).toBe(`URI:spiffe://leveret/host/${hostId}`);
  expect(certificate.ca).toBe(false);
});

test("an agent that comes back needs no token, and keeps its id", async () => {
  await using agent = await TestAgent.start(plane.grpcAddr, secure(await joinToken()));
  await untilReady(agent);
  const { hostId } = agent.agent;
  const before = readFileSync(join(agent.dir, "identity", "certificate.pem"), "utf8");
  await agent.restart();
  await untilReady(agent);
  expect(agent.agent.hostId).toBe(hostId);
  expect(readFileSync(join(agent.dir, "identity", "certificate.pem"), "utf8")).toBe(before);
});

test("without a certificate Connect and Attach are refused, and so are strangers'", async () => {
  expect(await connectError({})).toBe(Code.Unauthenticated);
  const authority = await x509.createAuthority("Leveret CA", {
    notBefore: new Date(Date.now() - 1_000),
    notAfter: new Date(Date.now() + 86_400_000),
  });
  const key = await x509.createKey();
  const foreign = await x509.issue(authority, {
    notBefore: new Date(Date.now() - 1_000),
    notAfter: new Date(Date.now() + 86_400_000),
    subject: "stranger",
    usage: "client",
    publicKey: x509.publicKeyOf(key),
    names: [{ type: "url", value: `spiffe://leveret/host/${HostId.create()}` }],
  });
  expect(await connectError({ key, cert: x509.pem(foreign, "CERTIFICATE") })).toBe(
    Code.Unauthenticated,
  );
  using link = speak();
  const attach = link.rpc.attach(
    (async function* () {
      yield* [];
      await Promise.resolve();
    })(),
  );
  const error = await (async () => {
    for await (const _ of attach) break;
  })().catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: Code.Unauthenticated });
});

test("a token is spent on one key; the same key may ask again", async () => {
  const token = await joinToken();
  const hostId = HostId.create();
  const first = await enrolByHand(hostId, token);
  const again = await enrolByHand(hostId, token, first.keyPem);
  expect(again.reply.ca).toEqual(first.reply.ca);
  const other = await enrolByHand(HostId.create(), token).catch((error: unknown) => error);
  expect(other).toMatchObject({ code: Code.Unauthenticated });
});

test("a token that has expired, or was never made, is refused", async () => {
  const token = await joinToken();
  await plane.deps.database.db.execute("update join_tokens set expires_at = now()");
  const late = await enrolByHand(HostId.create(), token).catch((error: unknown) => error);
  expect(late).toMatchObject({ code: Code.Unauthenticated });
  const { caHash } = parseJoinToken(token);
  const made = `lvj_${"0".repeat(20)}_${"0".repeat(32)}_${caHash}`;
  const invented = await enrolByHand(HostId.create(), made).catch((error: unknown) => error);
  expect(invented).toMatchObject({ code: Code.Unauthenticated });
});

test("matrix: same host id, another key: refused, and the live host is untouched", async () => {
  await using agent = await TestAgent.start(plane.grpcAddr, secure(await joinToken()));
  await untilReady(agent);
  const { hostId } = agent.agent;
  const stolen = await enrolByHand(hostId, await joinToken()).catch((error: unknown) => error);
  expect(stolen).toMatchObject({ code: Code.PermissionDenied });
  // With a certificate of its own, another host may not claim the id in Hello either.
  const own = HostId.create();
  const { keyPem, cert } = await enrolByHand(own, await joinToken());
  using link = speak({ key: keyPem, cert });
  const replies = link.rpc.connect(
    (async function* () {
      yield {
        frame: {
          case: "hello" as const,
          value: { hostId, kvm: "direct", capacity: { cpus: 1, memoryMib: 1n, diskMib: 1n } },
        },
      };
      await Promise.resolve();
    })(),
  );
  for await (const { frame } of replies) {
    expect(frame).toMatchObject({ case: "goodbye" });
    break;
  }
  expect(await stateOf(hostId)).toBe("ready");
  expect(await stateOf(own)).toBeUndefined();
});

test("a revoked host is sent away, stays away, and joins again with a new key only", async () => {
  await using agent = await TestAgent.start(plane.grpcAddr, secure(await joinToken()));
  await untilReady(agent);
  const { hostId } = agent.agent;
  const revoked = await call(plane, "POST", `/v1/hosts/${hostId}/revoke`);
  expect(revoked).toMatchObject({ status: 200, body: { host_id: hostId, keys: 1 } });
  expect((await failure(agent.agent.finished)).message).toContain("certificate was revoked");
  await until("the host to be down", async () => (await stateOf(hostId)) === "disconnected");
  await agent.restart();
  expect((await failure(agent.agent.finished)).message).toContain("does not speak for");
  const keyPem = readFileSync(join(agent.dir, "identity", "key.pem"), "utf8");
  const sameKey = await enrolByHand(hostId, await joinToken(), keyPem).catch((e: unknown) => e);
  expect(sameKey).toMatchObject({ code: Code.PermissionDenied });
  expect((await enrolByHand(hostId, await joinToken())).reply.certificate.length).toBeGreaterThan(
    0,
  );
});

test("a revoked host that is given a new token joins again by itself, with a new key", async () => {
  await using agent = await TestAgent.start(plane.grpcAddr, secure(await joinToken()));
  await untilReady(agent);
  const { hostId } = agent.agent;
  const file = join(agent.dir, "identity", "key.pem");
  const before = readFileSync(file, "utf8");
  await call(plane, "POST", `/v1/hosts/${hostId}/revoke`);
  await failure(agent.agent.finished);
  // The token that it has is spent: it is of no use now.
  await agent.restart();
  expect((await failure(agent.agent.finished)).message).toContain("does not speak for");
  expect(readFileSync(file, "utf8")).toBe(before);
  await agent.restart({ joinToken: await joinToken() });
  await untilReady(agent);
  expect(agent.agent.hostId).toBe(hostId);
  expect(readFileSync(file, "utf8")).not.toBe(before);
  await agent.restart({ joinToken: null });
  await untilReady(agent);
});

test("a revocation in another replica ends the stream too", async () => {
  await using agent = await TestAgent.start(plane.grpcAddr, secure(await joinToken()));
  await untilReady(agent);
  const { hostId } = agent.agent;
  await plane.deps.database.db.execute(
    `update host_keys set revoked_at = now() where host_id = '${hostId}'`,
  );
  expect((await failure(agent.agent.finished)).message).toContain("certificate was revoked");
});

test("at two thirds of its life the certificate is renewed over the link", async () => {
  let ahead = 0;
  const clock = {
    now: () => Date.now() + ahead,
    sleep: (ms: number, signal?: AbortSignal) =>
      // Heartbeats come quickly; the rest takes its time.
      systemClock.sleep(Math.min(ms, 50), signal),
  };
  await using agent = await TestAgent.start(plane.grpcAddr, {
    clock,
    ...secure(await joinToken()),
  });
  await untilReady(agent);
  const path = join(agent.dir, "identity", "certificate.pem");
  const first = new X509Certificate(readFileSync(path));
  ahead = 21 * 86_400_000;
  const next = await until("the next certificate", () => {
    const now = new X509Certificate(readFileSync(path));
    return now.serialNumber === first.serialNumber ? null : now;
  });
  expect(next.subjectAltName).toBe(first.subjectAltName);
  expect(next.publicKey.equals(first.publicKey)).toBe(true);
  ahead = 0;
  await agent.restart();
  await untilReady(agent);
});

test("a stream ends with the certificate it was opened with", async () => {
  let ahead = 0;
  const now = (): number => Date.now() + ahead;
  const dir = mkdtempSync(join(tmpdir(), "leveret-expiry-"));
  await using own = await startPlane({
    config: { insecureLink: false, dataDir: dir },
    clock: { now, sleep: (ms, signal) => systemClock.sleep(ms, signal) },
  });
  await using agent = await TestAgent.start(own.grpcAddr, {
    ...secure(await joinToken(undefined, own)),
    // Heartbeats come quickly. The agent's own clock stands still: it asks for nothing.
    clock: {
      now: () => Date.now(),
      sleep: (ms, signal) => systemClock.sleep(Math.min(ms, 50), signal),
    },
  });
  const state = async (): Promise<string> => {
    const reply = await call(own, "GET", `/v1/hosts/${agent.agent.hostId}`);
    return (reply.body as Host).state;
  };
  await until("the host to be ready", async () => (await state()) === "ready");
  ahead = 31 * 86_400_000;
  await until("the host to be down", async () => (await state()) === "disconnected");
  rmSync(dir, { recursive: true, force: true });
});

test("a connection without a certificate is closed when it has had its time to enroll", async () => {
  const dir = mkdtempSync(join(tmpdir(), "leveret-stranger-"));
  await using own = await startPlane({
    config: { insecureLink: false, dataDir: dir },
    strangerMs: 2_000,
  });
  const stranger = connectHttp2(`https://${own.grpcAddr}`, { rejectUnauthorized: false });
  stranger.on("error", () => undefined);
  await until("the connection to be closed", () => stranger.destroyed || stranger.closed);
  await using agent = await TestAgent.start(own.grpcAddr, secure(await joinToken(undefined, own)));
  await until("the host to be ready", async () => {
    const reply = await call(own, "GET", `/v1/hosts/${agent.agent.hostId}`);
    return (reply.body as Partial<Host>).state === "ready";
  });
  rmSync(dir, { recursive: true, force: true });
});

test("an agent tells a hub of another CA before it sends its token", async () => {
  const otherDir = mkdtempSync(join(tmpdir(), "leveret-other-"));
  const other = await startPlane({ config: { insecureLink: false, dataDir: otherDir } });
  try {
    const token = await joinToken(undefined, other);
    await using agent = await TestAgent.start(plane.grpcAddr, secure(token));
    expect((await failure(agent.agent.finished)).message).toContain("its CA is another");
    const spent = await other.deps.database.db.execute(
      "select 1 from join_tokens where used_at is not null",
    );
    expect(spent).toHaveLength(0);
  } finally {
    await other[Symbol.asyncDispose]();
    rmSync(otherDir, { recursive: true, force: true });
  }
});

test("a host's certificate does not pass for the hub's", async () => {
  const { keyPem, cert } = await enrolByHand(HostId.create(), await joinToken());
  const caPem = await caOf();
  const { createSecureServer } = await import("node:http2");
  const server = createSecureServer({ key: keyPem, cert: cert + caPem });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  let calls = 0;
  server.on("request", () => (calls += 1));
  server.on("stream", () => (calls += 1));
  try {
    const { dial } = await import("../../agent/link/transport.ts");
    const config = { controlPlaneAddr: `127.0.0.1:${address.port}`, insecureLink: false };
    using link = dial(config, { ca: caPem, cert: null, key: null });
    const request = { token: "t", hostId: "h", csr: new Uint8Array() };
    const error = await link.client.enroll(request).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(Error);
    expect(calls).toBe(0);
  } finally {
    server.close();
  }
});

async function caOf(): Promise<string> {
  const { reply } = await enrolByHand(HostId.create(), await joinToken());
  expect(createHash("sha256").update(reply.ca).digest().length).toBe(32);
  return x509.pem(reply.ca, "CERTIFICATE");
}

test("an agent without certificate and token, or with a token that is none, does not start", async () => {
  const none = await failure(TestAgent.start(plane.grpcAddr, secure(null)));
  expect(none.message).toContain("set LEVERET_JOIN_TOKEN to what `lev hosts token` prints");
  const wrong = await failure(TestAgent.start(plane.grpcAddr, secure("lvj_x")));
  expect(wrong.message).toBe("LEVERET_JOIN_TOKEN: That is not a join token (lvj_…)");
});

test("a token that is refused ends the agent with the control plane's words", async () => {
  const token = await joinToken();
  await enrolByHand(HostId.create(), token);
  await using agent = await TestAgent.start(plane.grpcAddr, secure(token));
  expect((await failure(agent.agent.finished)).message).toBe(
    "LEVERET_JOIN_TOKEN: the control plane says: The join token is unknown, spent or has expired",
  );
});

test("every replica of a database is the same CA, and opens it with the same key only", async () => {
  const databaseUrl = await createDatabase();
  const root = mkdtempSync(join(tmpdir(), "leveret-replicas-"));
  const config = { insecureLink: false, databaseUrl };
  try {
    const [a, b] = await Promise.all([
      startPlane({ config: { ...config, dataDir: root } }),
      startPlane({ config: { ...config, dataDir: root } }),
    ]);
    const hashes = await Promise.all(
      [a, b].map(async (one) => parseJoinToken(await joinToken(undefined, one)).caHash),
    );
    expect(hashes[0]).toBe(hashes[1] ?? "");
    await a[Symbol.asyncDispose]();
    await b[Symbol.asyncDispose]();
    const other = join(root, "other");
    mkdirSync(other);
    writeFileSync(join(other, "secret.key"), `${"ab".repeat(32)}\n`);
    const refused = await failure(startPlane({ config: { ...config, dataDir: other } }));
    expect(refused).toMatchObject({ reason: "CONFIG_INVALID" });
    expect(refused.message).toContain("is not the key that this database's CA was sealed with");
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});

test("the hub is known by its URI, and by its names to clients that check names", async () => {
  const ca = await caOf();
  const { connect } = await import("node:tls");
  const [host = "", port = ""] = plane.grpcAddr.split(":");
  const socket = connect({ host, port: Number(port), ca, ALPNProtocols: ["h2"] });
  await new Promise<void>((resolve, reject) => {
    socket.once("secureConnect", resolve);
    socket.once("error", reject);
  });
  expect(socket.authorized).toBe(true);
  const names = new X509Certificate(socket.getPeerCertificate().raw).subjectAltName ?? "";
  for (const name of [`URI:${HUB_URI}`, "DNS:localhost", "IP Address:127.0.0.1"])
    expect(names).toContain(name);
  socket.destroy();
});
