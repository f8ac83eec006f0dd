/**
 * One PostgreSQL per test run, one database per caller. The server is the
 * embedded one, in a temporary directory; LEVERET_TEST_DATABASE_URL names
 * another. It is stopped and removed when the test process ends, however it ends.
 */
import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync } from "node:fs";
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
  cleanUpAfterUs(directory);
  return (await startEmbedded(directory)).address;
}

/**
 * `bun test` runs no exit handlers, and a killed run could not: a child that
 * reads our end of a pipe notices in both cases. SIGQUIT ends the server at once,
 * without a checkpoint that nobody will read.
 */
function cleanUpAfterUs(directory: string): void {
  // In the background of a shell that ends at once: `bun test` kills its own children
  // when a test takes too long, and this one has to outlive that.
  const script = `(
    cat <&3 >/dev/null
    pid=$(head -n 1 "$1/postgres/data/postmaster.pid") && kill -QUIT "$pid"
    for i in $(seq 100); do readlink "/proc/$pid/exe" >/dev/null || break; sleep 0.05; done
    rm -rf "$1"
  ) &`;
  const watcher = spawn("sh", ["-c", script, "cleanup", directory], {
    detached: true,
    stdio: ["ignore", "ignore", "ignore", "pipe"],
  });
  watcher.unref();
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
