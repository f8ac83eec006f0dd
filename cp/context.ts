/** Config → the parts of a running control plane, every one of which a test may replace. */
import { mkdirSync } from "node:fs";
import { systemClock, type Clock } from "../lib/clock.ts";
import { createLog, type Log } from "../lib/log.ts";
import { LvError } from "../proto/errors.ts";
import { startEmbedded } from "./db/embedded.ts";
import { openDatabase, type Database } from "./db/index.ts";
import { lockDirectory } from "./db/lock.ts";
import type { Config } from "./config.ts";

export type Context = AsyncDisposable & {
  config: Config;
  log: Log;
  clock: Clock;
  database: Database;
  /** Resolves when the embedded PostgreSQL ends; never for one that is somebody else's. */
  databaseLost: Promise<void>;
};

export type ContextOverrides = { log?: Log; clock?: Clock };

export async function createContext(
  config: Config,
  overrides: ContextOverrides = {},
): Promise<Context> {
  const log = overrides.log ?? createLog("cp", config.logLevel);
  const clock = overrides.clock ?? systemClock;
  await using cleanup = new AsyncDisposableStack();
  let address: Parameters<typeof openDatabase>[0];
  let databaseLost = new Promise<void>(() => undefined);
  if (config.databaseUrl === null) {
    makeDirectory(config.dataDir);
    cleanup.use(lockDirectory(config.dataDir));
    const server = cleanup.use(await startEmbedded(config.dataDir, { log, clock }));
    ({ address, exited: databaseLost } = server);
  } else {
    address = config.databaseUrl;
  }
  const database = cleanup.use(await openDatabase(address, { listenUrl: config.listenUrl }));
  const owned = cleanup.move();
  return {
    config,
    log,
    clock,
    database,
    databaseLost,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o755 });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new LvError("CONFIG_INVALID", `LEVERET_CP_DIR="${path}": ${why}`, { cause: error });
  }
}
