/**
 * drizzle without the work that is the same each time. Half of a simulated life would go
 * into making the text of statements: drizzle copies its configuration at every chunk and
 * names every column anew. Here one pass writes the text, what columns and tables are
 * called is kept, and so is how a row becomes an object. Whatever this pass does not know
 * is left to drizzle's own; sql.test.ts holds the two texts against each other.
 */
import {
  Column,
  DrizzleQueryError,
  is,
  Name,
  Param,
  Placeholder,
  type QueryWithTypings,
  SQL,
  sql,
  StringChunk,
  Subquery,
  Table,
  View,
} from "drizzle-orm";
import { isPgEnum, PgDialect, type PreparedQueryConfig } from "drizzle-orm/pg-core";
import { PgRemoteDatabase, PgRemoteSession, type PreparedQuery } from "drizzle-orm/pg-proxy";
import type { Db } from "../../cp/db/index.ts";

/** Answers a statement with rows as arrays. */
export type Run = (sql: string, params: unknown[]) => Promise<unknown[][]>;

type Kind = "text" | "name" | "sql" | "named" | "param" | "wrapper" | "value" | "unknown";
type Field = { path: string[]; field: unknown };
type Query = { sql: string; params: unknown[] };
type ToRow = (row: unknown[]) => Record<string, unknown>;
/** For lists that are equal element by element: drizzle makes them anew each time. */
type Known<T> = { fields: unknown[]; value: T }[];

/** Something for drizzle itself. */
class Unknown extends Error {}

export class QuickDialect extends PgDialect {
  readonly #kinds = new Map<unknown, Kind>();
  readonly #names = new Map<unknown, string>();
  readonly #selections = new Map<unknown, Known<SQL>>();
  readonly #slowSelection: (fields: Field[], options?: { isSingleTable?: boolean }) => SQL;

  constructor() {
    super();
    // Private in its declaration, and the greater part of the work of a SELECT.
    const own = this as unknown as { buildSelection: QuickDialect["selection"] };
    this.#slowSelection = own.buildSelection.bind(this);
    own.buildSelection = (fields, options) => this.selection(fields, options);
  }

  override sqlToQuery(chunk: SQL, source?: "indexes"): QueryWithTypings {
    if (source !== undefined) return super.sqlToQuery(chunk, source);
    const out: Query = { sql: "", params: [] };
    try {
      this.#write(chunk, out);
      return out;
    } catch (error) {
      if (!(error instanceof Unknown)) throw error;
      return super.sqlToQuery(chunk);
    }
  }

  selection(fields: Field[], options: { isSingleTable?: boolean } = {}): SQL {
    const { isSingleTable = false } = options;
    const columns = fields.map(({ field }) => field);
    const first = columns[0];
    if (!columns.every((column) => is(column, Column))) return this.#slowSelection(fields, options);
    const known = listOf(this.#selections, first);
    const found = findSame(known, columns, isSingleTable);
    if (found !== undefined) return found;
    const made = sql.raw(super.sqlToQuery(this.#slowSelection(fields, options)).sql);
    known.push({ fields: [...columns, isSingleTable], value: made });
    return made;
  }

  #write(chunk: unknown, out: Query): void {
    if (chunk === undefined) return;
    if (Array.isArray(chunk)) {
      for (let i = 0; i < chunk.length; i += 1) {
        out.sql += i === 0 ? "(" : ", ";
        this.#write(chunk[i], out);
      }
      out.sql += chunk.length === 0 ? "()" : ")";
      return;
    }
    switch (this.#kindOf(chunk)) {
      case "text":
        for (const text of (chunk as StringChunk).value) out.sql += text;
        return;
      case "name":
        out.sql += this.escapeName((chunk as Name).value);
        return;
      case "sql":
        if ((chunk as { shouldInlineParams?: boolean }).shouldInlineParams === true)
          throw new Unknown();
        for (const part of (chunk as SQL).queryChunks) this.#write(part, out);
        return;
      case "named":
        out.sql += this.#nameOf(chunk);
        return;
      case "param":
        return this.#writeParam(chunk as Param, out);
      case "wrapper": {
        const wrapper = chunk as { getSQL(): SQL; shouldOmitSQLParens?(): boolean };
        const bare = wrapper.shouldOmitSQLParens?.() === true;
        if (!bare) out.sql += "(";
        this.#write(wrapper.getSQL(), out);
        if (!bare) out.sql += ")";
        return;
      }
      case "value":
        out.sql += this.escapeParam(out.params.push(chunk) - 1);
        return;
      case "unknown":
        throw new Unknown();
    }
  }

  #writeParam({ value, encoder }: Param, out: Query): void {
    if (is(value, Placeholder)) throw new Unknown();
    const mapped: unknown = value === null ? null : encoder.mapToDriverValue(value);
    if (is(mapped, SQL)) this.#write(mapped, out);
    else out.sql += this.escapeParam(out.params.push(mapped) - 1);
  }

  #kindOf(chunk: unknown): Kind {
    if (typeof chunk === "function") return "unknown";
    if (typeof chunk !== "object" || chunk === null) return "value";
    const { constructor } = chunk;
    const known = this.#kinds.get(constructor);
    if (known !== undefined) return known;
    const kind = kindOf(chunk);
    this.#kinds.set(constructor, kind);
    return kind;
  }

  #nameOf(chunk: unknown): string {
    const known = this.#names.get(chunk);
    if (known !== undefined) return known;
    const name = super.sqlToQuery(new SQL([chunk as Column])).sql;
    this.#names.set(chunk, name);
    return name;
  }
}

function kindOf(chunk: object): Kind {
  if (is(chunk, StringChunk)) return "text";
  if (is(chunk, Name)) return "name";
  if (is(chunk, SQL)) return "sql";
  if (is(chunk, Table) || is(chunk, Column)) return "named";
  if (is(chunk, Param)) return "param";
  const odd = is(chunk, View) || is(chunk, Placeholder) || is(chunk, SQL.Aliased);
  if (odd || is(chunk, Subquery) || isPgEnum(chunk)) return "unknown";
  return "getSQL" in chunk ? "wrapper" : "value";
}

function listOf<T>(all: Map<unknown, Known<T>>, key: unknown): Known<T> {
  const known = all.get(key);
  if (known !== undefined) return known;
  const made: Known<T> = [];
  all.set(key, made);
  return made;
}

function findSame<T>(known: Known<T>, fields: unknown[], last: unknown): T | undefined {
  for (const { fields: others, value } of known)
    if (
      others.length === fields.length + 1 &&
      others[fields.length] === last &&
      fields.every((field, at) => others[at] === field)
    )
      return value;
  return undefined;
}

/** How rows become objects, by the list of fields. */
class Mappers {
  readonly #known = new Map<unknown, Known<ToRow>>();

  /** Undefined for what only drizzle knows: joins, which may have no right side. */
  of(fields: Field[]): ToRow | undefined {
    if (fields.some(({ path }) => path.length !== 1)) return undefined;
    const columns = fields.map(({ field }) => field);
    const known = listOf(this.#known, columns[0]);
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
