/**
 * Lives in which every statement is made twice, quickly and by drizzle itself. A process
 * of its own, as main.ts is: what dead processes still promise would fail a test.
 */
import { PgDialect } from "drizzle-orm/pg-core";
import { QuickDialect } from "../../cp/db/quick-dialect.ts";
import { isDeath } from "./time.ts";
import { simulate } from "./world.ts";

const LIVES = 5;
const own = new PgDialect();
const { buildSelection } = own as unknown as { buildSelection: QuickDialect["selection"] };
const quick = QuickDialect.prototype;
const write = Reflect.get(quick, "sqlToQuery") as QuickDialect["sqlToQuery"];
const select = Reflect.get(quick, "selection") as QuickDialect["selection"];
const texts = new Set<string>();

function mustBeSame(one: unknown, other: unknown): void {
  if (Bun.deepEquals(one, other)) return;
  process.stdout.write(`${Bun.inspect(one)}\nis to be\n${Bun.inspect(other)}\n`);
  process.exit(1);
}

quick.sqlToQuery = function (...args) {
  const query = write.apply(this, args);
  const { sql, params } = own.sqlToQuery(...args);
  mustBeSame({ sql: query.sql, params: query.params }, { sql, params });
  texts.add(sql);
  return query;
};
quick.selection = function (...args) {
  const made = select.apply(this, args);
  mustBeSame(own.sqlToQuery(made), own.sqlToQuery(buildSelection.apply(own, args)));
  return made;
};
process.on("unhandledRejection", (error) => {
  if (!isDeath(error)) throw error;
});
for (let seed = 1; seed <= LIVES; seed += 1) await simulate(seed);
process.stdout.write(`${texts.size} statements are the same\n`);
process.exit(0);
