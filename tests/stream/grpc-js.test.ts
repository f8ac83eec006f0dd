/** gRPC of another make speaks to the hub: what is in the .proto file is all it takes. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect } from "node:tls";
import * as x509 from "../../lib/x509.ts";
import { HostId } from "../../proto/ids.ts";
import { base32, parseJoinToken } from "../../proto/identity.ts";
import type { CreatedJoinToken } from "../../proto/rest.ts";
import { GrpcPeer } from "./kit/grpc-peer.ts";
import { call, createMachine, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(60_000);

const ROOT = join(import.meta.dir, "..", "..");
const PROTO = join(ROOT, "proto", "leveret", "v1", "agent.proto");
const PREVIOUS = join(import.meta.dir, "previous", "agent.proto");

function helloOf(hostId: string) {
  return {
    host_id: hostId,
    hostname: "grpc-js",
    version: "0",
    boot_id: "boot",
    arch: "amd64",
    kvm: "direct",
    capacity: { cpus: 4, memory_mib: "4096", disk_mib: "20000" },
  };
}

/** The CA as the hub shows it, checked against the token as any agent has to. */
async function authorityOf(address: string, token: string): Promise<string> {
  const [host = "", port = ""] = address.split(":");
  const socket = connect({
    host,
    port: Number(port),
    rejectUnauthorized: false,
    ALPNProtocols: ["h2"],
  });
  await new Promise<void>((resolve, reject) => {
    socket.once("secureConnect", resolve);
    socket.once("error", reject);
  });
  const { raw } = socket.getPeerCertificate(true).issuerCertificate;
  socket.destroy();
  expect(base32(x509.sha256(raw))).toBe(parseJoinToken(token).caHash);
  return x509.pem(raw, "CERTIFICATE");
}

test("@grpc/grpc-js on Node enrolls, registers, runs ops and is superseded", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), "leveret-grpc-js-"));
  try {
    await using plane = await startPlane({ config: { insecureLink: false, dataDir } });
    const { token } = (await call(plane, "POST", "/v1/hosts/tokens")).body as CreatedJoinToken;
    const hostId = HostId.create();
    const key = await x509.createKey();
    const csr = await x509.createRequest(key, "any name");
    const ca = await authorityOf(plane.grpcAddr, token);
    await using peer = new GrpcPeer({ proto: PROTO, address: plane.grpcAddr, tls: { ca, key } });

    await peer.tell({ do: "connect", hello: helloOf(hostId) });
    const refused = await peer.hear("a refusal", (told) => told.error !== undefined);
    expect(refused).toMatchObject({ stream: 1, error: 16 });

    const request = { token, host_id: hostId, csr: Buffer.from(csr).toString("base64") };
    await peer.tell({ do: "enroll", request });
    const enrolled = await peer.hear("the certificate", (told) => told.enrolled !== undefined);
    expect(enrolled).toMatchObject({ enrolled: true });

    await peer.tell({ do: "connect", hello: helloOf(hostId) });
    const welcome = await peer.frame(2, "welcome");
    expect(welcome.frame).toMatchObject({ epoch: "1", welcome: { host_id: hostId } });
    const machine = await createMachine(plane);
    await untilState(plane, machine.id, "started");
    await call(plane, "POST", `/v1/machines/${machine.id}/stop`);
    await untilState(plane, machine.id, "stopped");

    await peer.tell({ do: "connect", hello: helloOf(hostId) });
    expect((await peer.frame(3, "welcome")).frame).toMatchObject({ epoch: "2" });
    expect((await peer.frame(2, "goodbye")).frame).toMatchObject({
      goodbye: { reason: "REASON_SUPERSEDED" },
    });
    await peer.hear("the older stream's end", (told) => told.stream === 2 && told.end === true);
    const host = (await call(plane, "GET", `/v1/hosts/${hostId}`)).body;
    expect(host).toMatchObject({ state: "ready" });
    await call(plane, "DELETE", `/v1/machines/${machine.id}`);
    await untilState(plane, machine.id, "destroyed");
  } finally {
    rmSync(dataDir, { recursive: true, force: true });
  }
});

test("matrix: an agent one version older works", async () => {
  await using plane = await startPlane();
  const hostId = HostId.create();
  await using peer = new GrpcPeer({ proto: PREVIOUS, address: plane.grpcAddr, tls: null });
  await peer.tell({ do: "connect", hello: helloOf(hostId) });
  await peer.frame(1, "welcome");
  const machine = await createMachine(plane);
  await untilState(plane, machine.id, "started");
  await call(plane, "DELETE", `/v1/machines/${machine.id}`);
  await untilState(plane, machine.id, "destroyed");
});
