/** `lev hosts token` and `lev hosts revoke` against a control plane. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseJoinToken } from "../../proto/identity.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { TEST_TOKEN } from "../kit/token.ts";
import { call, startPlane } from "../stream/kit/plane.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(60_000);

const MAIN = join(import.meta.dir, "..", "..", "cli", "main.ts");

async function lev(url: string, ...argv: string[]) {
  const child = Bun.spawn([process.execPath, "--no-env-file", MAIN, ...argv], {
    env: { ...process.env, LEVERET_URL: url, LEVERET_TOKEN: TEST_TOKEN },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [code, stdout, stderr] = await Promise.all([
    child.exited,
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code, stdout, stderr };
}

test("a token lets one host in, revoke shuts it out again", async () => {
  const dataDir = mkdtempSync(join(tmpdir(), "leveret-cli-hosts-"));
  await using plane = await startPlane({ config: { insecureLink: false, dataDir } });
  const made = await lev(plane.httpUrl, "hosts", "token", "--ttl", "600");
  expect(made.code).toBe(0);
  expect(made.stderr).toContain("LEVERET_JOIN_TOKEN");
  const joinToken = made.stdout.trimEnd();
  parseJoinToken(joinToken);
  await using agent = await TestAgent.start(plane.grpcAddr, {
    config: { insecureLink: false, joinToken },
  });
  const { hostId } = agent.agent;
  await until("the host to be ready", async () => {
    const { status, body } = await call(plane, "GET", `/v1/hosts/${hostId}`);
    return status === 200 && (body as { state: string }).state === "ready";
  });
  const revoked = await lev(plane.httpUrl, "hosts", "revoke", hostId);
  expect(revoked).toMatchObject({ code: 0, stdout: "", stderr: `lev: ${hostId} is shut out\n` });
  const again = await lev(plane.httpUrl, "hosts", "revoke", hostId);
  expect(again.stderr).toBe(`lev: ${hostId} had no certificate\n`);
  rmSync(dataDir, { recursive: true, force: true });
});

test("on a plain link there is nothing to join with, and that is said", async () => {
  await using plane = await startPlane();
  const refused = await lev(plane.httpUrl, "hosts", "token");
  expect(refused).toMatchObject({ code: 1, stdout: "" });
  expect(refused.stderr).toStartWith("lev: STATE_CONFLICT: The link is plain");
  const nobody = await lev(plane.httpUrl, "hosts", "revoke", "nobody");
  expect(nobody.stderr).toBe('lev: HOST_NOT_FOUND: No host "nobody"\n');
});
