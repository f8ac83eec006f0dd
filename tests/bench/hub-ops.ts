/**
 * Round trips of ops at a given rate, as the hub sees them: an op is written by somebody
 * else, as another replica would, who says so by NOTIFY; it goes down the stream of its
 * host, is acknowledged and answered, its Result is stored, and the agent is told that it
 * may forget it. The time is from before the op's INSERT until that last word has come.
 * The ops are for machines that only their host knows, so that what is measured is the
 * way of an op and not what it changes; hub-rest.ts has the whole of it.
 */
import { eq, sql } from "drizzle-orm";
import { openDatabase } from "../../cp/db/index.ts";
import { hosts } from "../../cp/db/schema/hosts.ts";
import { Relay } from "../../cp/ops/relay.ts";
import { silentLog } from "../../lib/log.ts";
import { MachineId, OpId } from "../../proto/ids.ts";
import { until } from "../kit/until.ts";

const TICK_MS = 10;
const WARM_UP_S = 2;
const DRAIN_MS = 30_000;

/** When an agent was told to forget an op's Result, by the clock that all processes share. */
export type Done = (opId: string) => number | undefined;

/** Milliseconds of each round trip after the warm-up. */
export async function runOps(
  database: string,
  done: Done,
  { rate, seconds }: { rate: number; seconds: number },
  say: (line: string) => void,
): Promise<number[]> {
  await using own = await openDatabase(database, { prepare: true });
  const relay = new Relay(own, "bench", silentLog());
  const ready = await own.db.select({ id: hosts.id }).from(hosts).where(eq(hosts.state, "ready"));
  const sent: { id: string; atMs: number }[] = [];
  const writes: Promise<void>[] = [];
  const write = async (count: number): Promise<void> => {
    const rows = Array.from({ length: count }, (_, number) => ({
      id: OpId.create(),
      machine: MachineId.create(),
      host: ready[(sent.length + number) % ready.length]?.id ?? "",
    }));
    const atMs = Date.now();
    for (const { id } of rows) sent.push({ id, atMs });
    // One parameter: a text of its own for each number of rows would be the driver's work alone.
    await own.db.execute(sql`insert into ops (id, machine_id, host_id, generation, command)
      select id, machine, host, 1, '{"kind":"destroy"}'
      from json_to_recordset(${JSON.stringify(rows)}::json) as x(id text, machine text, host text)`);
    for (const { host } of rows) relay.tell({ kind: "wake", id: host });
  };
  const began = performance.now();
  const total = rate * (WARM_UP_S + seconds);
  while (sent.length < total) {
    const due = Math.ceil(((performance.now() - began) / 1_000) * rate);
    const count = Math.min(due, total) - sent.length;
    if (count > 0) writes.push(write(count));
    await Bun.sleep(TICK_MS);
  }
  await Promise.all(writes);
  await until("every op's end", () => sent.every(({ id }) => done(id) !== undefined), DRAIN_MS);
  const took = (performance.now() - began) / 1_000;
  say(`${sent.length} ops in ${took.toFixed(1)} s (${(sent.length / took).toFixed(0)}/s)`);
  return sent.slice(rate * WARM_UP_S).map(({ id, atMs }) => (done(id) ?? Number.NaN) - atMs);
}
