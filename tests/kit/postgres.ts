/**
 * One PostgreSQL per test run, one database per caller. The server is the
 * embedded one, in a temporary directory; LEVERET_TEST_DATABASE_URL names
 * another. It is stopped and removed when the process ends.
 */
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startEmbedded, type Address } from "../../cp/db/embedded.ts";
import { connect } from "../../cp/db/index.ts";

type Where = string | Address;

let shared: Promise<Where> | undefined;

async function start(): Promise<Where> {
  const given = process.env["LEVERET_TEST_DATABASE_URL"];
  if (given !== undefined && given !== "") return given;
  const directory = mkdtempSync(join(tmpdir(), "leveret-test-pg-"));
  // As root the server runs as another user, who has to get in.
  chmodSync(directory, 0o755);
  const server = await startEmbedded(directory);
  process.on("exit", () => {
    try {
      // SIGQUIT: at once, without a checkpoint that nobody will read.
      process.kill(server.pid, "SIGQUIT");
    } catch {
      // Gone already.
    }
    // An exit handler cannot await, and a server that still writes keeps its directory.
    for (let waitedMs = 0; waitedMs < 5_000 && isAlive(server.pid); waitedMs += 10)
      Bun.sleepSync(10);
    rmSync(directory, { recursive: true, force: true });
  });
  return server.address;
}

/** Not a zombie: nobody reaps children any more at this point. */
function isAlive(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** A database of the caller's own, empty; for `databaseUrl` or `openDatabase`. */
export async function createDatabase(): Promise<string> {
  shared ??= start();
  const where = await shared;
  const sql = connect(where, { max: 1, onnotice: () => undefined });
  const name = `t_${crypto.randomUUID().replaceAll("-", "")}`;
  try {
    await sql.unsafe(`create database ${name}`);
  } finally {
    await sql.end();
  }
  if (typeof where !== "string")
    return `postgres://${where.username}@localhost:${where.port}/${name}?host=${encodeURIComponent(where.host)}`;
  const url = new URL(where);
  url.pathname = `/${name}`;
  return url.href;
}
