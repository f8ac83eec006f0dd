/**
 * The control plane's own SQL on an in-memory SQLite, for the simulator: the
 * queries of cp/db run unchanged, through drizzle, and their text is translated.
 * PostgreSQL would cost a round trip per statement; with this a whole fleet's life
 * fits into a few milliseconds. What is given up: transactions run one after the
 * other, never side by side. tests/sim/sql.test.ts asks PostgreSQL the same questions.
 */
import { Database as Sqlite, SQLiteError, type Statement } from "bun:sqlite";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { is, SQL } from "drizzle-orm";
import {
  getTableConfig,
  PgBigSerial53,
  PgBoolean,
  type PgColumn,
  PgDialect,
  PgTable,
} from "drizzle-orm/pg-core";

type Source = { kind: "param"; index: number } | { kind: "now" } | { kind: "serial"; name: string };
type Value = string | number | null | Uint8Array;
type Prepared = { statement: Statement; sources: Source[]; writes: boolean };

const SCHEMA_DIR = join(import.meta.dir, "../../cp/db/schema");
const ISO = "'%Y-%m-%dT%H:%M:%fZ'";
const dialect = new PgDialect();

/** Every table of cp/db/schema. */
export async function loadTables(): Promise<PgTable[]> {
  const tables: PgTable[] = [];
  for (const file of readdirSync(SCHEMA_DIR).toSorted()) {
    if (!file.endsWith(".ts")) continue;
    const module = (await import(join(SCHEMA_DIR, file))) as Record<string, unknown>;
    for (const value of Object.values(module))
      if (is(value, PgTable) && !tables.includes(value)) tables.push(value);
  }
  for (const table of tables)
    for (const column of getTableConfig(table).columns)
      // SQLite has no booleans, so the driver's part of the decoding is done here.
      if (is(column, PgBoolean))
        column.mapFromDriverValue = (value: unknown) => value === 1 || value === true;
  return tables;
}

export class SqlEngine implements Disposable {
  readonly #sqlite = new Sqlite(":memory:");
  readonly #columns = new Map<string, Map<string, PgColumn>>();
  readonly #uniques = new Map<string, string>();
  readonly #serials = new Map<string, number>();
  readonly #prepared = new Map<string, Prepared>();
  readonly #exec = new Map<string, Statement>();
  /** Changes each time hosts or their placements may have been written. */
  writes = 0;
  now: () => number = Date.now;

  constructor(tables: PgTable[]) {
    for (const table of tables) this.#createTable(table);
  }

  /** Rows as arrays. Throws what PostgreSQL's driver would for a unique violation. */
  run(sql: string, params: unknown[]): unknown[][] {
    const { statement, sources, writes } = this.#prepare(sql);
    const values = sources.map((source) => this.#valueOf(source, params));
    if (writes) this.writes += 1;
    try {
      return statement.values(...values) as unknown[][];
    } catch (error) {
      throw this.#translateError(error, sql);
    }
  }

  /** Empty, as it was made; prepared statements are kept. */
  reset(): void {
    for (const name of this.#columns.keys()) this.#sqlite.run(`DELETE FROM "${name}"`);
    this.#serials.clear();
    this.writes = 0;
  }

  /** BEGIN, COMMIT and the like. */
  exec(sql: string): void {
    const known = this.#exec.get(sql) ?? this.#sqlite.prepare(sql);
    this.#exec.set(sql, known);
    known.run();
  }

  /** For the invariants: plain SQLite. */
  query<T>(sql: string): T[] {
    return this.#sqlite.query(sql).all() as T[];
  }

  [Symbol.dispose](): void {
    this.#sqlite.close();
  }

  #createTable(table: PgTable): void {
    const { name, columns, indexes, primaryKeys } = getTableConfig(table);
    this.#columns.set(name, new Map(columns.map((column) => [column.name, column])));
    const lines = columns.map(
      (column) =>
        `"${column.name}"${column.primary ? " PRIMARY KEY" : ""}${column.notNull ? " NOT NULL" : ""}`,
    );
    for (const key of primaryKeys) {
      const names = key.columns.map((column) => column.name);
      lines.push(`PRIMARY KEY (${names.map((one) => `"${one}"`).join(", ")})`);
      this.#uniques.set(names.map((one) => `${name}.${one}`).join(", "), key.getName());
    }
    this.#sqlite.run(`CREATE TABLE "${name}" (${lines.join(", ")})`);
    for (const { config } of indexes) {
      const names = config.columns.map((column) =>
        is(column, SQL) ? this.#bare(column, name) : `"${"name" in column ? column.name : ""}"`,
      );
      const where = config.where === undefined ? "" : ` WHERE ${this.#bare(config.where, name)}`;
      this.#sqlite.run(
        `CREATE ${config.unique ? "UNIQUE " : ""}INDEX "${config.name}" ON "${name}" (${names.join(", ")})${where}`,
      );
      if (config.unique)
        this.#uniques.set(
          names.map((one) => `${name}.${one.replaceAll('"', "")}`).join(", "),
          config.name ?? "",
        );
    }
  }

  #bare(expression: SQL, table: string): string {
    return dialect.sqlToQuery(expression.inlineParams()).sql.replaceAll(`"${table}".`, "");
  }

  #prepare(text: string): Prepared {
    const known = this.#prepared.get(text);
    if (known !== undefined) return known;
    const sources: Source[] = [];
    const source = (one: Source): string => {
      sources.push(one);
      return "?";
    };
    const sql = portable(this.#fillDefaults(text)).replaceAll(
      /\$(\d+)|now\(\)|@serial\(([\w.]+)\)/g,
      (match, index: string | undefined, name: string | undefined) => {
        if (index !== undefined) return source({ kind: "param", index: Number(index) - 1 });
        if (name !== undefined) return source({ kind: "serial", name });
        return match === "now()" ? source({ kind: "now" }) : match;
      },
    );
    const writes = /^(insert into|update|delete from) "(hosts|placements)"/.test(sql);
    const made = { statement: this.#sqlite.prepare(sql), sources, writes };
    this.#prepared.set(text, made);
    return made;
  }

  /** `default` among the values of an INSERT is what the schema says. */
  #fillDefaults(sql: string): string {
    const match = /^insert into "(\w+)" \(([^)]*)\) values (.*)$/s.exec(sql);
    const [, table = "", names = "", rest = ""] = match ?? [];
    if (match === null || !/\bdefault\b/.test(rest)) return sql;
    const columns = names.split(",").map((name) => name.trim().replaceAll('"', ""));
    let depth = 0;
    let at = 0;
    const filled = rest.replaceAll(/\(|\)|,|\bdefault\b/g, (token) => {
      if (token === "(" && (depth += 1) === 1) at = 0;
      else if (token === ")") depth -= 1;
      else if (token === "," && depth === 1) at += 1;
      else if (token === "default" && depth === 1) return this.#defaultOf(table, columns[at] ?? "");
      return token;
    });
    return `insert into "${table}" (${names}) values ${filled}`;
  }

  #defaultOf(table: string, name: string): string {
    const column = this.#columns.get(table)?.get(name);
    if (column === undefined) throw new Error(`${table} has no column ${name}`);
    if (is(column, PgBigSerial53)) return `@serial(${table}.${name})`;
    const value: unknown = column.default;
    if (value === undefined) return "null";
    if (is(value, SQL)) return dialect.sqlToQuery(value.inlineParams()).sql;
    const driver: unknown = column.mapToDriverValue(value);
    return typeof driver === "number" || typeof driver === "boolean"
      ? String(driver)
      : `'${String(driver).replaceAll("'", "''")}'`;
  }

  #valueOf(source: Source, params: unknown[]): Value {
    if (source.kind === "now") return new Date(this.now()).toISOString();
    if (source.kind === "serial") {
      const next = (this.#serials.get(source.name) ?? 0) + 1;
      this.#serials.set(source.name, next);
      return next;
    }
    const value = params[source.index];
    if (typeof value === "boolean") return value ? 1 : 0;
    if (typeof value === "bigint") return Number(value);
    if (value instanceof Date) return value.toISOString();
    if (value === undefined || value === null) return null;
    if (typeof value === "string" || typeof value === "number") return value;
    if (value instanceof Uint8Array) return value;
    return JSON.stringify(value);
  }

  #translateError(error: unknown, sql: string): unknown {
    if (!(error instanceof SQLiteError)) return error;
    const failed = /UNIQUE constraint failed: (?:index '(\w+)'|(.+))$/.exec(error.message);
    if (failed === null) return new Error(`${error.message} in: ${sql}`, { cause: error });
    const name = failed[1] ?? this.#uniques.get(failed[2] ?? "") ?? failed[2];
    return Object.assign(new Error(error.message), { code: "23505", constraint_name: name });
  }
}

/** What is PostgreSQL's alone and has a counterpart. */
function portable(sql: string): string {
  return sql
    .replaceAll(/::\w+(\[\])?/g, "")
    .replaceAll("pg_current_xact_id()", "@serial(xid)")
    .replace(/^set local .*/, "select 1 where false")
    .replaceAll(/ = any\((\$\d+)\)/g, " in (select value from json_each($1))")
    .replace(/ for (no key )?(update|share)( of "\w+")?( skip locked| nowait)?$/, "")
    .replaceAll(
      /(now\(\)|"\w+"(?:\."\w+")?) ([+-]) make_interval\(secs => ([^()]+)\)/g,
      `strftime(${ISO}, $1, '$2' || ($3) || ' seconds')`,
    )
    .replaceAll(
      /(now\(\)|"\w+"(?:\."\w+")?) ([+-]) interval '([^']+)'/g,
      `strftime(${ISO}, $1, '$2$3')`,
    )
    .replaceAll(/\bgreatest\(/g, "max(")
    .replaceAll(/\bleast\(/g, "min(");
}
