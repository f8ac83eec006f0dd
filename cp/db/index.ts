/**
 * The one door to PostgreSQL: pool, migrations and transactions. SQLSTATEs become
 * reasons of the error table here and nowhere else.
 */
import { join } from "node:path";
import { drizzle, PostgresJsDatabase, PostgresJsSession } from "drizzle-orm/postgres-js";
import { migrate } from "drizzle-orm/postgres-js/migrator";
import postgres from "postgres";
import { LvError } from "../../proto/errors.ts";
import type { Address } from "./embedded.ts";
import { QuickDialect } from "./quick-dialect.ts";

type Root = PostgresJsDatabase;
/** A pool or a transaction: queries take either. */
export type Db = Root | Parameters<Parameters<Root["transaction"]>[0]>[0];

export type Database = AsyncDisposable & {
  db: Db;
  /**
   * For what comes again by itself: not waited for on the disk, so a PostgreSQL that
   * crashes may forget its last second. Where that is refused it is `db`.
   */
  relaxed: Db;
  /** Runs in one READ COMMITTED transaction; repeated when PostgreSQL aborts it as a deadlock's victim. */
  transaction<T>(work: (tx: Db) => Promise<T>): Promise<T>;
  /** Throws DATABASE_UNAVAILABLE when the server does not answer. */
  ping(): Promise<void>;
  /** To all who listen, this process included; less than 8,000 bytes. */
  notify(payload: string): Promise<void>;
  /** On a connection of its own, opened again when it breaks; what is said meanwhile is lost. */
  listen(onPayload: (payload: string) => void): Promise<AsyncDisposable>;
};

export type DatabaseOptions = {
  /** Keeps statements in PostgreSQL's sessions, which a pooler would mix up. */
  prepare?: boolean;
  /** For `listen`, when the other address leads to a pooler. */
  listenUrl?: string | null;
};

type Options = {
  prepare?: boolean;
  max: number;
  connect_timeout?: number;
  onnotice: () => undefined;
  backoff?: (attempt: number) => number;
  connection?: { synchronous_commit: "off" };
};

const CHANNEL = "leveret";
/** Of a DATABASE_URL. */
const PREPARE = "prepare";
const POOL_SIZE = 16;
const RELAXED_POOL_SIZE = 4;
const CONNECT_TIMEOUT_S = 5;
const TRANSACTION_ATTEMPTS = 5;

/**
 * Connects, and brings the schema up to date from drizzle/. Statements are prepared
 * on a server of our own; behind a DATABASE_URL there may be a pooler that hands each
 * transaction to another session, so there nothing is kept in a session, unless the URL
 * says `prepare=true`: half of the round trips.
 */
export async function openDatabase(
  where: string | Address,
  { prepare = mayPrepare(where), listenUrl = null }: DatabaseOptions = {},
): Promise<Database> {
  const options = {
    prepare,
    max: POOL_SIZE,
    connect_timeout: CONNECT_TIMEOUT_S,
    onnotice: () => undefined,
    // Seconds. The driver's own goes up to 20: too late for a server that is back.
    backoff: (attempt: number) => Math.min(0.05 * 2 ** attempt, 1),
  };
  const sql = connect(where, options);
  const db = quick(prepare ? prepared(sql) : sql);
  try {
    await bringUpToDate(drizzle(sql));
  } catch (error) {
    await sql.end({ timeout: 1 });
    throw typeof where === "string" ? unusable(where, error) : fromDatabase(error);
  }
  const relaxed = await openRelaxed(where, options);
  return {
    db,
    relaxed: relaxed === null ? db : quick(prepare ? prepared(relaxed) : relaxed),
    transaction: (work) => transact(db, work),
    ping: async () => {
      await sql`select 1`.catch((error: unknown) => {
        throw fromDatabase(error);
      });
    },
    notify: async (payload) => {
      // A hint: PostgreSQL lets nobody else notify while one waits for the disk.
      await (relaxed ?? sql)`select pg_notify(${CHANNEL}, ${payload})`;
    },
    listen: (onPayload) => listen(listenUrl ?? where, onPayload),
    [Symbol.asyncDispose]: async () => {
      await Promise.all([sql.end({ timeout: 2 }), relaxed?.end({ timeout: 2 })]);
    },
  };
}

/** drizzle, with a dialect that writes the same statements in less time. */
function quick(client: postgres.Sql): Root {
  // Tells the client to leave dates and JSON to drizzle's columns.
  drizzle(client);
  const dialect = new QuickDialect();
  return new PostgresJsDatabase(
    dialect,
    new PostgresJsSession(client, dialect, undefined),
    undefined,
  );
}

/** Null where it is refused: a pooler takes no settings at the start of a session. */
async function openRelaxed(
  where: string | Address,
  options: Options,
): Promise<postgres.Sql | null> {
  const connection = { synchronous_commit: "off" } as const;
  const sql = connect(where, { ...options, max: RELAXED_POOL_SIZE, connection });
  try {
    await sql`select 1`;
    return sql;
  } catch {
    await sql.end({ timeout: 1 });
    return null;
  }
}

function mayPrepare(where: string | Address): boolean {
  return typeof where !== "string" || new URL(where).searchParams.get(PREPARE) === "true";
}

async function listen(
  where: string | Address,
  onPayload: (payload: string) => void,
): Promise<AsyncDisposable> {
  const sql = connect(where, { max: 1, onnotice: () => undefined });
  try {
    await sql.listen(CHANNEL, onPayload);
  } catch (error) {
    await sql.end({ timeout: 1 });
    throw fromDatabase(error);
  }
  return { [Symbol.asyncDispose]: () => sql.end({ timeout: 1 }) };
}

/** A replica that starts at the same moment makes the same tables: whoever loses looks again. */
async function bringUpToDate(db: Root): Promise<void> {
  const migrationsFolder = join(import.meta.dir, "..", "..", "drizzle");
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await migrate(db, { migrationsFolder });
    } catch (error) {
      if (attempt === TRANSACTION_ATTEMPTS || !MADE_ALREADY.has(sqlState(error) ?? "")) throw error;
    }
  }
}

/** unique_violation (of the catalogue), duplicate_table, duplicate_schema, duplicate_column, duplicate_object. */
const MADE_ALREADY = new Set(["23505", "42P07", "42P06", "42701", "42710"]);

/** For the one line that a person reads; the address without its password. */
function unusable(address: string, error: unknown): LvError {
  const { username, host, pathname } = new URL(address);
  let root = error;
  while (root instanceof Error && root.cause !== undefined) root = root.cause;
  const why = root instanceof Error ? root.message : String(root);
  return new LvError(
    "DATABASE_UNAVAILABLE",
    `DATABASE_URL: cannot use ${username}@${host}${pathname}: ${why}`,
    { cause: error },
  );
}

/** Longer texts are lists of ids: each length would be another statement to keep. */
const PREPARED_PARAMS_MAX = 40;

/** drizzle asks for every statement to be planned anew, and waits a round trip for it. */
function prepared<T extends postgres.ISql>(sql: T): T {
  const unsafe: postgres.Sql["unsafe"] = (text, params, options) =>
    sql.unsafe(text, params, {
      ...options,
      prepare: params !== undefined && params.length <= PREPARED_PARAMS_MAX,
    });
  const begin = (work: (tx: postgres.TransactionSql) => unknown): unknown =>
    "begin" in sql && typeof sql.begin === "function"
      ? (sql as unknown as postgres.Sql).begin((tx) => work(prepared(tx)))
      : undefined;
  const replaced = new Map<PropertyKey, unknown>([
    ["unsafe", unsafe],
    ["begin", begin],
  ]);
  return new Proxy(sql, {
    get: (target, name) => replaced.get(name) ?? (Reflect.get(target, name) as unknown),
  });
}

/** libpq's form for a unix socket, `postgres://…/db?host=/run/postgresql`, works too. */
export function connect(where: string | Address, options: Options): postgres.Sql {
  if (typeof where !== "string") return postgres({ ...options, ...where });
  const url = new URL(where);
  const host = url.searchParams.get("host");
  // The driver sends the server every parameter that it does not know.
  url.searchParams.delete("host");
  url.searchParams.delete(PREPARE);
  return postgres(url.href, host === null ? options : { ...options, host });
}

async function transact<T>(db: Root, work: (tx: Db) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await db.transaction(work);
    } catch (error) {
      const state = sqlState(error);
      const again = state === "40P01" || state === "40001";
      if (!again || attempt === TRANSACTION_ATTEMPTS) throw fromDatabase(error);
    }
  }
}

/** The SQLSTATE (or a socket's error code) behind whatever the driver threw. */
function sqlState(error: unknown): string | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    if ("code" in at && typeof at.code === "string") return at.code;
  return undefined;
}

/** The unique constraint that was violated, if that is what happened. */
export function violatedConstraint(error: unknown): string | undefined {
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    if ("code" in at && at.code === "23505" && "constraint_name" in at)
      return String(at.constraint_name);
  return undefined;
}

const GONE = /^(CONNECTION_|CONNECT_TIMEOUT|ECONN|ENOENT|EPIPE|ETIMEDOUT|08|57P0|25P03|53300)/;

/** LvErrors pass; a server that is away is DATABASE_UNAVAILABLE, one without room DISK_FULL. */
export function fromDatabase(error: unknown): unknown {
  if (error instanceof LvError) return error;
  const state = sqlState(error);
  if (state === undefined) return error;
  if (state === "22021" || state === "22P05")
    return new LvError("BAD_REQUEST", "A text contains a NUL character", { cause: error });
  if (state === "53100")
    return new LvError("DISK_FULL", "The control plane's disk is full", { cause: error });
  if (GONE.test(state))
    return new LvError("DATABASE_UNAVAILABLE", "The database does not answer; try again", {
      cause: error,
    });
  return error;
}
