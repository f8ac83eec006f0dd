/** What the translation of PostgreSQL's SQL must get right; the seeds rest on it. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { type Db, openDatabase, violatedConstraint } from "../../cp/db/index.ts";
import { takeLead } from "../../cp/db/queries/replicas.ts";
import { createDatabase } from "../kit/postgres.ts";
import { SharedStore, SimDatabase } from "./database.ts";
import { Random } from "./random.ts";
import { loadTables, SqlEngine } from "./sql.ts";
import { Scheduler, SimProcess } from "./time.ts";

setDefaultTimeout(60_000);

type Step = (db: Db, passS: (seconds: number) => Promise<void>) => Promise<unknown>;

/** The same questions to both; the answers have to be the same. */
const STEPS: Record<string, Step> = {
  "a lead is one replica's until its lease has run out": async (db, passS) => {
    const terms = [
      await takeLead(db, "w", "rep_a", 1),
      await takeLead(db, "w", "rep_b", 1),
      await takeLead(db, "w", "rep_a", 1),
    ];
    await passS(2);
    return [...terms, await takeLead(db, "w", "rep_b", 1), await takeLead(db, "w", "rep_a", 1)];
  },
};

async function simulated() {
  const scheduler = new Scheduler();
  const engine = new SqlEngine(await loadTables());
  engine.now = () => scheduler.now;
  const store = new SharedStore(engine);
  const { db } = new SimDatabase(store, new SimProcess("cp"), scheduler, new Random(1));
  return { scheduler, engine, db };
}

for (const [name, step] of Object.entries(STEPS))
  test(`${name}, in SQLite as in PostgreSQL`, async () => {
    const { scheduler, db } = await simulated();
    let done = false;
    const virtual = step(db, (seconds) => scheduler.sleep(seconds * 1_000));
    void virtual.finally(() => (done = true));
    while (!done) await scheduler.step(Number.POSITIVE_INFINITY);
    await using real = await openDatabase(await createDatabase());
    const measured = await step(real.db, (seconds) => Bun.sleep(seconds * 1_000));
    expect(await virtual).toEqual(measured);
  });

test("a unique violation names its constraint as PostgreSQL does", async () => {
  const { engine } = await simulated();
  const insert = (): unknown =>
    engine.run('insert into "projects" ("id", "name", "created_at") values ($1, $2, now())', [
      "prj_1",
      "one",
    ]);
  insert();
  try {
    insert();
    throw new Error("expected a violation");
  } catch (error) {
    expect(violatedConstraint(error)).toBeDefined();
  }
});

test("each statement of a life is drizzle's, word for word", async () => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "quick-drizzle-check.ts")], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const output = await new Response(child.stdout).text();
  expect(output).toMatch(/^\d\d+ statements are the same\n$/);
  expect(await child.exited).toBe(0);
});
