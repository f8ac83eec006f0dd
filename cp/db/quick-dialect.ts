/**
 * drizzle's dialect without the work that is the same each time. drizzle copies its
 * configuration at every chunk of a statement and names every column anew, which would be a
 * third of what the control plane does. Here one pass writes the text, and what columns and
 * tables are called is kept. Whatever this pass does not know is left to drizzle's own;
 * tests/sim/sql.test.ts holds the two texts against each other.
 */
import {
  Column,
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
import { isPgEnum, PgDialect } from "drizzle-orm/pg-core";

type Kind = "text" | "name" | "sql" | "named" | "param" | "wrapper" | "value" | "unknown";
export type Field = { path: string[]; field: object };
export type Query = { sql: string; params: unknown[] };
/** For lists that are equal element by element: drizzle makes them anew each time. */
export type Known<T> = { fields: unknown[]; value: T }[];

/** Something for drizzle itself. */
class Unknown extends Error {}

export class QuickDialect extends PgDialect {
  readonly #kinds = new Map<unknown, Kind>();
  /** By table and column, which may be made for one statement. */
  readonly #names = new WeakMap<object, string>();
  readonly #selections = new WeakMap<object, Known<SQL>>();
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
    const [first] = columns;
    if (!is(first, Column) || !columns.every((column) => is(column, Column)))
      return this.#slowSelection(fields, options);
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
        out.sql += this.#nameOf(chunk as object);
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
    // Says nothing of what is in it.
    if (constructor === Object) return "unknown";
    const known = this.#kinds.get(constructor);
    if (known !== undefined) return known;
    const kind = kindOf(chunk);
    this.#kinds.set(constructor, kind);
    return kind;
  }

  #nameOf(chunk: object): string {
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

export function listOf<T>(all: WeakMap<object, Known<T>>, key: object): Known<T> {
  const known = all.get(key);
  if (known !== undefined) return known;
  const made: Known<T> = [];
  all.set(key, made);
  return made;
}

export function findSame<T>(known: Known<T>, fields: unknown[], last: unknown): T | undefined {
  for (const { fields: others, value } of known)
    if (
      others.length === fields.length + 1 &&
      others[fields.length] === last &&
      fields.every((field, at) => others[at] === field)
    )
      return value;
  return undefined;
}
