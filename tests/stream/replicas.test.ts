/** Two control planes on one PostgreSQL: either serves everything, and neither harms the other. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eq } from "drizzle-orm";
import { Client } from "../../cli/client.ts";
import { type Database, openDatabase } from "../../cp/db/index.ts";
import { findOwner, takeLead } from "../../cp/db/queries/replicas.ts";
import { hosts } from "../../cp/db/schema/hosts.ts";
import { leaders } from "../../cp/db/schema/leaders.ts";
import { LOGS_PATH } from "../../cp/hub/routed-logs.ts";
import { METRICS_PATH } from "../../cp/hub/routed-metrics.ts";
import { failure } from "../kit/failure.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { createDatabase } from "../kit/postgres.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { createMachine, startPlane } from "./kit/plane.ts";

setDefaultTimeout(120_000);

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "leveret-replicas-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const clientOf = ({ httpUrl }: { httpUrl: string }): Client =>
  new Client({ url: httpUrl, token: TEST_TOKEN });

async function logsOf(client: Client, id: string): Promise<string> {
  let text = "";
  for await (const line of client.logs(id, false)) text += atob(line.data);
  return text;
}

async function hostRow(database: Database, id: string) {
  const [row] = await database.db.select().from(hosts).where(eq(hosts.id, id));
  if (row === undefined) throw new Error("no host");
  return row;
}

test("matrix: two replicas believe they own a host", async () => {
  const url = await createDatabase();
  await using database = await openDatabase(url);
  await using one = await PlaneChild.start(url, root);
  await using two = await PlaneChild.start(url, root);
  await using agent = await TestAgent.start(`${one.grpcAddr},${two.grpcAddr}`);
  const { hostId } = agent.agent;
  const ownerUrl = await until("an owner", () => findOwner(database.db, hostId));
  const [owner, other] = ownerUrl.url === one.httpUrl ? [one, two] : [two, one];
  const client = clientOf(other);

  // Either replica serves everything, though only one has the stream.
  const config = { image: "busybox", init: { cmd: ["count"] } };
  const { id } = await client.createMachine({ config });
  const started = (): Promise<boolean> =>
    client.machine(id).then((machine) => machine.state === "started");
  await until("a start asked of the other replica", started);
  await until("output through the other replica", async () =>
    (await logsOf(client, id)).includes("line 0"),
  );
  for (const path of [`${LOGS_PATH}?after=0&follow=0`, `${METRICS_PATH}?`]) {
    const stranger = await fetch(`${owner.httpUrl}${path}&host=${hostId}&machine=${id}`);
    expect(stranger.status).toBe(404);
  }
  // What the host counts, and what it refuses, through the other replica.
  expect(await client.metrics(id)).toMatchObject({ instance_id: `${id}.1`, cpu_us: 1_000 });
  const { id: over } = await client.createMachine({
    config: { image: "busybox", init: { cmd: ["exit", "0"] } },
  });
  await until("its end", async () => (await client.machine(over)).state === "stopped");
  expect((await failure(client.metrics(over))).reason).toBe("STATE_CONFLICT");
  await client.remove(over);

  owner.freeze();
  const taken = await until(
    "the other replica to take the host over",
    async () => {
      const row = await hostRow(database, hostId);
      return row.state === "ready" && row.ownerReplica !== ownerUrl.id ? row : null;
    },
    60_000,
  );
  await client.stop(id);
  await until("a stop", async () => (await client.machine(id)).state === "stopped");
  await client.start(id);
  await until("a second run", started);

  owner.thaw();
  // Its first renewal finds that the lease is gone; from then on it is one of two again.
  await until(
    "the former owner to serve",
    async () => (await clientOf(owner).machine(id)).id === id,
  );
  await clientOf(owner).stop(id);
  await until("a stop asked of the former owner", async () => {
    const machine = await client.machine(id);
    return machine.state === "stopped";
  });
  const row = await hostRow(database, hostId);
  expect(row).toMatchObject({
    state: "ready",
    epoch: taken.epoch,
    ownerReplica: taken.ownerReplica,
  });
  const begun = agent.driver.begun.filter(({ machineId }) => machineId === id);
  expect(begun.map(({ incarnation }) => incarnation)).toEqual([1, 2]);
  await client.remove(id);
  await until("nothing left", () => agent.driver.running === 0);
});

test("matrix: NOTIFY lost, replica never woken", async () => {
  const databaseUrl = await createDatabase();
  // Whatever is notified is said in the other database, where nobody speaks.
  const listenUrl = await createDatabase();
  const deaf = { outboxPollMs: 1_000, config: { databaseUrl, listenUrl } };
  await using one = await startPlane(deaf);
  await using two = await startPlane(deaf);
  await using agent = await FakeAgent.connect(one.grpcAddr);
  const began = performance.now();
  await createMachine(two);
  await agent.op(1);
  expect(performance.now() - began).toBeLessThan(5_000);
});

test("a replica that is killed is noticed, and its hosts are disconnected, not lost", async () => {
  const url = await createDatabase();
  await using database = await openDatabase(url);
  const one = await PlaneChild.start(url, root);
  await using agent = await FakeAgent.connect(one.grpcAddr);
  await using two = await PlaneChild.start(url, root);
  await one.kill();
  const down = await until(
    "the host to be marked down",
    async () => {
      const row = await hostRow(database, agent.hostId);
      return row.state === "ready" ? null : row;
    },
    40_000,
  );
  expect(down).toMatchObject({
    state: "disconnected",
    ownerReplica: null,
    epoch: agent.epoch === 1n ? 2 : -1,
  });
  await using again = await FakeAgent.connect(two.grpcAddr, { hostId: agent.hostId });
  expect(again.epoch).toBe(3n);
});

test("one replica leads; the term grows when another takes over", async () => {
  await using database = await openDatabase(await createDatabase());
  const { db } = database;
  expect(await takeLead(db, "work", "rep_a", 60)).toBe(1);
  expect(await takeLead(db, "work", "rep_b", 60)).toBeNull();
  expect(await takeLead(db, "work", "rep_a", 60)).toBe(1);
  await db.update(leaders).set({ leaseUntil: new Date(0) });
  expect(await takeLead(db, "work", "rep_b", 60)).toBe(2);
  expect(await takeLead(db, "work", "rep_a", 60)).toBeNull();
});
