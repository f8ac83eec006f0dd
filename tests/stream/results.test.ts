/** Results of many hosts at once: stored together, and none at the mercy of another. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { sql } from "drizzle-orm";
import type { ControlPlane } from "../../cp/server.ts";
import type { Op } from "../../proto/gen/leveret/v1/agent_pb.js";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { createMachine, startPlane, untilState } from "./kit/plane.ts";

setDefaultTimeout(30_000);

const HOSTS = 12;
type Pair = { agent: FakeAgent; op: Op };

let plane: ControlPlane;
beforeAll(async () => {
  plane = await startPlane();
});
afterAll(() => plane[Symbol.asyncDispose]());

/** Hosts with room for one machine each, and the op that starts it. */
async function pairs(disposal: AsyncDisposableStack): Promise<Pair[]> {
  const capacity = { cpus: 1, memoryMib: 300n, diskMib: 20_000n };
  const agents = await Promise.all(
    Array.from({ length: HOSTS }, () => FakeAgent.connect(plane.grpcAddr, { capacity })),
  );
  for (const agent of agents) disposal.use(agent);
  for (let made = 0; made < HOSTS; made += 1) await createMachine(plane);
  return Promise.all(agents.map(async (agent) => ({ agent, op: await agent.op(1) })));
}

const isAcked = ({ agent, op }: Pair): boolean => agent.acked().includes(op.opId);

test("each is stored and answered, and a machine whose row is held waits alone", async () => {
  await using disposal = new AsyncDisposableStack();
  const all = await pairs(disposal);
  const [held, ...others] = all;
  if (held === undefined) throw new Error("no hosts");
  await plane.deps.database.transaction(async (tx) => {
    await tx.execute(sql`select 1 from machines where id = ${held.op.machineId} for update`);
    for (const { agent, op } of all) agent.runStart(op);
    await until("the others' ResultAcks", () => others.every(isAcked));
    expect(isAcked(held)).toBe(false);
  });
  await until("the last ResultAck", () => isAcked(held));
  for (const { op } of all) await untilState(plane, op.machineId, "started");
  const open = await plane.deps.database.db.execute(sql`select 1 from ops where state <> 'done'`);
  expect(open).toHaveLength(0);
});

test("a host that ends another's op, or names none, is answered and changes nothing", async () => {
  await using disposal = new AsyncDisposableStack();
  const [victim, ...others] = await pairs(disposal);
  if (victim === undefined) throw new Error("no hosts");
  for (const { agent, op } of others) {
    agent.result({ ...op, opId: victim.op.opId });
    agent.result({ ...op, opId: "op_\0" });
  }
  await until("answers", () =>
    others.every(({ agent }) => agent.acked().includes(victim.op.opId) && agent.ended),
  );
  const rows = await plane.deps.database.db.execute<{ state: string }>(
    sql`select state from ops where id = ${victim.op.opId}`,
  );
  expect(rows[0]?.state).toBe("sent");
});
