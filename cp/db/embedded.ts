/**
 * A PostgreSQL of the control plane's own, in `<dir>/postgres`:
 *
 *   data/          the cluster; made under another name and renamed when complete
 *   run/           unix socket, mode 0700: whoever may enter may log in (no TCP)
 *   lib/           sonames that npm left out (its install script is not run)
 *   dist-<v>/      copy of the binaries, only where the server's user cannot reach them
 *   postgres.log
 *
 * States: absent → initdb → stopped ⇄ running. A control plane that was killed
 * leaves a running server; the next start stops it (after checking that the pid's
 * working directory is this cluster) and starts its own. PostgreSQL refuses to
 * run as root, so as root everything here belongs to an unprivileged user.
 */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock, type Clock } from "../../lib/clock.ts";
import { silentLog, type Log } from "../../lib/log.ts";
import { LvError } from "../../proto/errors.ts";
import { chooseUser, prepareBinaries, type Binaries, type ServerUser } from "./embedded-files.ts";

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 10_000;
const POLL_MS = 20;
/** sun_path is 108 bytes with its NUL; the file is .s.PGSQL.5432. */
const SOCKET_DIR_MAX = 107 - "/.s.PGSQL.5432".length;

/** What the `postgres` package needs to connect. */
export type Address = { host: string; port: number; username: string; database: string };

export type EmbeddedPostgres = AsyncDisposable & {
  pid: number;
  address: Address;
  /** Resolves when the server ends, asked for or not. */
  exited: Promise<void>;
};

/** Starts the server; the caller holds the directory's lock. */
export async function startEmbedded(
  directory: string,
  options: { log?: Log; clock?: Clock } = {},
): Promise<EmbeddedPostgres> {
  const log = options.log ?? silentLog();
  const clock = options.clock ?? systemClock;
  const root = join(directory, "postgres");
  fs.mkdirSync(root, { recursive: true, mode: 0o755 });
  const data = join(root, "data");
  const user = chooseUser(root, data);
  const binaries = prepareBinaries(root, user);
  await stopLeftover(data, log, clock);
  if (!fs.existsSync(join(data, "PG_VERSION"))) initialise(root, data, binaries, user, log);
  const socketDir = makeSocketDir(root, user);

  const logFile = join(root, "postgres.log");
  const logFd = fs.openSync(logFile, "a", 0o600);
  const child = spawn(binaries.postgres, serverArguments(data, socketDir), {
    ...user.ids,
    env: binaries.env,
    cwd: root,
    // Its own session: Ctrl-C in a terminal reaches the control plane only.
    detached: true,
    stdio: ["ignore", logFd, logFd],
  });
  fs.closeSync(logFd);
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  await waitReady(child, data, logFile, clock);
  const pid = child.pid;
  if (pid === undefined) throw new LvError("INTERNAL", "PostgreSQL has no process id");
  log.info({ server: pid, data }, "embedded PostgreSQL is ready");
  return {
    pid,
    address: { host: socketDir, port: 5432, username: "leveret", database: "postgres" },
    exited,
    [Symbol.asyncDispose]: async () => {
      await stopServer(pid, () => child.exitCode !== null || child.signalCode !== null, clock);
      if (!socketDir.startsWith(root)) fs.rmSync(socketDir, { recursive: true, force: true });
    },
  };
}

/** Small, quick to start and durable: fsync stays on. */
function serverArguments(data: string, socketDir: string): string[] {
  const settings = {
    listen_addresses: "",
    unix_socket_directories: socketDir,
    unix_socket_permissions: "0700",
    max_connections: "60",
    shared_buffers: "32MB",
    max_wal_size: "256MB",
    wal_level: "minimal",
    max_wal_senders: "0",
    jit: "off",
    // A control plane that stands still in mid-transaction keeps its locks no longer.
    idle_in_transaction_session_timeout: "10s",
    logging_collector: "off",
    log_timezone: "UTC",
    timezone: "UTC",
  };
  return [
    "-D",
    data,
    ...Object.entries(settings).flatMap(([key, value]) => ["-c", `${key}=${value}`]),
  ];
}

function initialise(
  root: string,
  data: string,
  binaries: Binaries,
  user: ServerUser,
  log: Log,
): void {
  const started = performance.now();
  for (const entry of fs.readdirSync(root))
    if (entry.startsWith("data.new"))
      fs.rmSync(join(root, entry), { recursive: true, force: true });
  const fresh = join(root, "data.new");
  fs.mkdirSync(fresh, { mode: 0o700 });
  user.own(fresh);
  const run = spawnSync(
    binaries.initdb,
    ["-D", fresh, "-U", "leveret", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"],
    { ...user.ids, env: binaries.env, cwd: root, encoding: "utf8", timeout: START_TIMEOUT_MS },
  );
  if (run.status !== 0) {
    fs.rmSync(fresh, { recursive: true, force: true });
    const output = `${run.stdout ?? ""}${run.stderr ?? ""}${run.error?.message ?? ""}`;
    const last = output.trim().split("\n").at(-1) ?? "";
    throw new LvError("INTERNAL", `Cannot create the database in "${data}": ${last}`, {
      meta: { output },
    });
  }
  fs.renameSync(fresh, data);
  log.info({ data, ms: Math.round(performance.now() - started) }, "database cluster created");
}

function makeSocketDir(root: string, user: ServerUser): string {
  const inside = join(root, "run");
  const path =
    Buffer.byteLength(inside) <= SOCKET_DIR_MAX
      ? inside
      : fs.mkdtempSync(join(tmpdir(), "leveret-pg-"));
  fs.mkdirSync(path, { recursive: true, mode: 0o700 });
  fs.chmodSync(path, 0o700);
  user.own(path);
  return path;
}

/** postmaster.pid, line 8, is the server's own word on whether it takes connections. */
async function waitReady(
  child: ChildProcess,
  data: string,
  logFile: string,
  clock: Clock,
): Promise<void> {
  let spawnError: Error | undefined;
  child.once("error", (error) => (spawnError = error));
  const deadline = clock.now() + START_TIMEOUT_MS;
  for (;;) {
    if (spawnError) throw new LvError("INTERNAL", `Cannot start PostgreSQL: ${spawnError.message}`);
    if (child.exitCode !== null || child.signalCode !== null)
      throw new LvError("INTERNAL", `PostgreSQL ended while starting: ${lastLine(logFile)}`);
    const lines = readPidFile(data);
    if (lines[0] === String(child.pid) && lines[7]?.trim() === "ready") return;
    if (clock.now() > deadline) {
      child.kill("SIGQUIT");
      throw new LvError("TIMEOUT", `PostgreSQL is not ready after ${START_TIMEOUT_MS / 1000} s`);
    }
    await clock.sleep(POLL_MS);
  }
}

function readPidFile(data: string): string[] {
  try {
    return fs.readFileSync(join(data, "postmaster.pid"), "utf8").split("\n");
  } catch {
    // Absent until the server has begun, and after it has ended.
    return [];
  }
}

/** Ends a server that a killed control plane left behind. */
async function stopLeftover(data: string, log: Log, clock: Clock): Promise<void> {
  const pid = Number(readPidFile(data)[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !servesCluster(pid, data)) return;
  log.warn(
    { server: pid, data },
    "stopping the PostgreSQL that an earlier control plane left running",
  );
  await stopServer(pid, () => !servesCluster(pid, data), clock);
}

/** A pid is used again by others in time; the postmaster's working directory is its cluster. */
function servesCluster(pid: number, data: string): boolean {
  try {
    return fs.readlinkSync(`/proc/${pid}/cwd`) === fs.realpathSync(data);
  } catch {
    return false;
  }
}

/** SIGINT = disconnect everybody and write a checkpoint; SIGQUIT = end now, recover at next start. */
async function stopServer(pid: number, ended: () => boolean, clock: Clock): Promise<void> {
  for (const signal of ["SIGINT", "SIGQUIT", "SIGKILL"] as const) {
    if (ended()) return;
    try {
      process.kill(pid, signal);
    } catch {
      // Already gone.
    }
    const deadline = clock.now() + STOP_TIMEOUT_MS;
    while (clock.now() < deadline) {
      if (ended()) return;
      await clock.sleep(POLL_MS);
    }
  }
  throw new LvError("TIMEOUT", `PostgreSQL (pid ${pid}) does not end`);
}

function lastLine(path: string): string {
  const lines = fs.readFileSync(path, "utf8").trim().split("\n");
  const fatal = lines.findLast((line) => /FATAL|PANIC|error/.test(line));
  return fatal ?? lines.at(-1) ?? "no output";
}
