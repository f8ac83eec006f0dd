/** Control planes whose DATABASE_URL leads to a pooler that gives each transaction another session. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "../../cli/client.ts";
import { connect } from "../../cp/db/index.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { createDatabase } from "../kit/postgres.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(120_000);

/** Only names the socket: nothing listens on a port of that number. */
const PORT = 6432;
/** Fewer than one control plane's own pool, so that sessions are really shared. */
const SESSIONS = 4;

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "lev-pgb-"));
  chmodSync(root, 0o755);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A pgbouncer in transaction mode before that database. */
async function startPooler(databaseUrl: string): Promise<AsyncDisposable & { url: string }> {
  const to = new URL(databaseUrl);
  const host = to.searchParams.get("host") ?? "";
  const dir = mkdtempSync(join(root, "pool-"));
  const config = join(dir, "pgbouncer.ini");
  writeFileSync(
    config,
    `[databases]
* = host=${host} port=${to.port} user=${to.username}
[pgbouncer]
listen_addr =
listen_port = ${PORT}
unix_socket_dir = ${dir}
auth_type = any
pool_mode = transaction
default_pool_size = ${SESSIONS}
max_client_conn = 200
`,
  );
  // As root it refuses to run, and only PostgreSQL's own user can enter its directory.
  const { uid, gid } = statSync(host);
  const other = process.getuid?.() !== uid;
  if (other) chownSync(dir, uid, gid);
  const as = other ? ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"] : [];
  const child = Bun.spawn([...as, "/usr/sbin/pgbouncer", "-q", config], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const url = `postgres://${to.username}@localhost:${PORT}${to.pathname}?host=${encodeURIComponent(dir)}`;
  await until("pgbouncer", async () => {
    if (child.exitCode !== null)
      throw new Error(`it ended: ${await new Response(child.stderr).text()}`);
    const sql = connect(url, { max: 1, onnotice: () => undefined });
    return sql`select 1`
      .then(() => true)
      .catch(() => false)
      .finally(() => void sql.end());
  });
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

test("two replicas behind pgbouncer in transaction mode carry a machine through its life", async () => {
  await using pooler = await startPooler(await createDatabase());
  await using one = await PlaneChild.start(pooler.url, root);
  await using two = await PlaneChild.start(pooler.url, root);
  // Connected to one, asked through the other: a NOTIFY would be lost in the pooler.
  await using _agent = await TestAgent.start(one.grpcAddr);
  const client = new Client({ url: two.httpUrl, token: TEST_TOKEN });
  await until("the host", async () => (await client.hosts())[0]?.state === "ready");

  const config = { image: "busybox", init: { cmd: ["count"] } };
  const machines = await Promise.all(
    Array.from({ length: 6 }, () => client.createMachine({ config })),
  );
  const untilState = async ({ id }: { id: string }, state: string): Promise<void> =>
    expect((await client.wait(id, [state], 30)) ?? (await client.machine(id))).toMatchObject({
      state,
    });
  const untilAll = (state: string): Promise<unknown> =>
    Promise.all(machines.map((machine) => untilState(machine, state)));
  await untilAll("started");
  const [first] = machines;
  if (first === undefined) throw new Error("no machine");
  await client.stop(first.id);
  await untilState(first, "stopped");
  await client.start(first.id);
  await untilState(first, "started");
  await Promise.all(machines.map(({ id }) => client.remove(id)));
  await untilAll("destroyed");
  await until("the room to be free again", async () => {
    const [host] = await client.hosts();
    return host?.committed.memory_mb === 0;
  });
  expect(await client.machines()).toEqual([]);
});
