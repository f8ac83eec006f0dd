/**
 * drizzle without the work that is the same each time, which half of a simulated life would
 * go into: the product's dialect, and how a row becomes an object is kept too. What it does
 * not know is left to drizzle's own.
 */
import { Column, DrizzleQueryError, is, SQL } from "drizzle-orm";
import type { PreparedQueryConfig } from "drizzle-orm/pg-core";
import { PgRemoteDatabase, PgRemoteSession, type PreparedQuery } from "drizzle-orm/pg-proxy";
import type { Db } from "../../cp/db/index.ts";
import {
  type Field,
  findSame,
  type Known,
  listOf,
  type Query,
  QuickDialect,
} from "../../cp/db/quick-dialect.ts";

/** Answers a statement with rows as arrays. */
export type Run = (sql: string, params: unknown[]) => Promise<unknown[][]>;

type ToRow = (row: unknown[]) => Record<string, unknown>;

/** How rows become objects, by the list of fields. */
class Mappers {
  readonly #known = new WeakMap<object, Known<ToRow>>();

  /** Undefined for what only drizzle knows: joins, which may have no right side. */
  of(fields: Field[]): ToRow | undefined {
    const columns = fields.map(({ field }) => field);
    const [first] = columns;
    if (first === undefined || fields.some(({ path }) => path.length !== 1)) return undefined;
    const known = listOf(this.#known, first);
    const names = fields.map(({ path }) => path[0] ?? "");
    const found = findSame(known, columns, names.join());
    if (found !== undefined) return found;
    const decoders = columns.map(decoderOf);
    const made: ToRow = (row) => {
      const result: Record<string, unknown> = {};
      for (let i = 0; i < names.length; i += 1) {
        const value = row[i];
        const decode = decoders[i];
        result[names[i] ?? ""] = value === null || decode === undefined ? value : decode(value);
      }
      return result;
    };
    known.push({ fields: [...columns, names.join()], value: made });
    return made;
  }
}

type Decoder = { mapFromDriverValue(value: unknown): unknown };

/** Undefined when the value is what the driver says. */
function decoderOf(field: unknown): ((value: unknown) => unknown) | undefined {
  const decoder = (
    is(field, Column)
      ? field
      : is(field, SQL)
        ? (field as unknown as { decoder: Decoder }).decoder
        : (field as { sql: { decoder: Decoder } }).sql.decoder
  ) as Decoder;
  if (decoder.mapFromDriverValue === Column.prototype.mapFromDriverValue) return undefined;
  return (value) => decoder.mapFromDriverValue(value);
}

/** A statement that is ready to run: what drizzle's builders ask of one. */
class QuickQuery {
  /** Set by SELECT; only joins need it, and those are drizzle's own here. */
  joinsNotNullableMap: unknown;
  readonly #query: Query;
  readonly #run: Run;
  readonly #toRow: ToRow | null;

  constructor(query: Query, run: Run, toRow: ToRow | null) {
    this.#query = query;
    this.#run = run;
    this.#toRow = toRow;
  }

  setToken(): this {
    return this;
  }

  async execute(): Promise<unknown[]> {
    const { sql: text, params } = this.#query;
    try {
      const rows = await this.#run(text, params);
      return this.#toRow === null ? rows : rows.map(this.#toRow);
    } catch (error) {
      throw new DrizzleQueryError(text, params, error as Error);
    }
  }
}

class QuickSession extends PgRemoteSession<Record<string, never>, Record<string, never>> {
  readonly #run: Run;
  readonly #mappers: Mappers;

  constructor(run: Run, dialect: QuickDialect, mappers: Mappers) {
    super(async (text, params) => ({ rows: await run(text, params) }), dialect, undefined);
    this.#run = run;
    this.#mappers = mappers;
  }

  override prepareQuery<T extends PreparedQueryConfig>(
    ...args: Parameters<PgRemoteSession<never, never>["prepareQuery"]>
  ): PreparedQuery<T> {
    const [query, fields, , , mapper] = args;
    const toRow = fields === undefined ? null : this.#mappers.of(fields as Field[]);
    if (toRow === undefined || mapper !== undefined) return super.prepareQuery<T>(...args);
    return new QuickQuery(query, this.#run, toRow) as unknown as PreparedQuery<T>;
  }
}

const dialect = new QuickDialect();
const mappers = new Mappers();

export function quickDrizzle(run: Run): Db {
  const session = new QuickSession(run, dialect, mappers);
  // The same query builder; only the driver's result of execute() differs, which nobody uses.
  return new PgRemoteDatabase(dialect, session, undefined) as unknown as Db;
}
