/** What is kept in PostgreSQL's sessions, which only a DATABASE_URL without a pooler may allow. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { sql } from "drizzle-orm";
import { openDatabase } from "../../cp/db/index.ts";
import { getMachine } from "../../cp/db/queries/machines.ts";
import { createDatabase } from "../kit/postgres.ts";

setDefaultTimeout(60_000);

/** Statements that the session keeps after a query of ours; and whether a relaxed one waits for the disk. */
async function looks(url: string): Promise<{ kept: number; waits: string }> {
  await using database = await openDatabase(url);
  const kept = await database.transaction(async (tx) => {
    await getMachine(tx, "none");
    const [row] = await tx.execute<{ kept: number }>(
      sql`select count(*)::int as kept from pg_prepared_statements where statement like '%"machines"%'`,
    );
    return row?.kept ?? -1;
  });
  const [row] = await database.relaxed.execute<{ waits: string }>(
    sql`select current_setting('synchronous_commit') as waits`,
  );
  return { kept, waits: row?.waits ?? "" };
}

test("statements are kept in the session only where the URL says prepare=true", async () => {
  const url = new URL(await createDatabase());
  expect(await looks(url.href)).toEqual({ kept: 0, waits: "off" });
  url.searchParams.set("prepare", "true");
  expect(await looks(url.href)).toEqual({ kept: 1, waits: "off" });
});
