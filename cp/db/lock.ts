/**
 * One control plane per data directory. The lock is SQLite's: a POSIX record
 * lock that the kernel drops when its process ends, however it ends, and that a
 * child (PostgreSQL) does not inherit. A pid file alone would survive a SIGKILL.
 */
import { Database } from "bun:sqlite";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";

export type DirectoryLock = Disposable;

/** Throws STATE_CONFLICT, naming the holder, when another process has the directory. */
export function lockDirectory(directory: string): DirectoryLock {
  const pidFile = join(directory, "cp.pid");
  const handle = new Database(join(directory, "cp.lock"), { create: true });
  try {
    handle.run("PRAGMA busy_timeout = 0");
    handle.run("PRAGMA locking_mode = EXCLUSIVE");
    handle.run("BEGIN EXCLUSIVE");
  } catch (error) {
    handle.close();
    if (error instanceof Error && "code" in error && error.code === "SQLITE_BUSY")
      throw new LvError(
        "STATE_CONFLICT",
        `Cannot use "${directory}": the control plane with pid ${holder(pidFile)} uses it`,
      );
    throw error;
  }
  writeFileSync(pidFile, `${process.pid}\n`);
  return { [Symbol.dispose]: () => handle.close() };
}

function holder(pidFile: string): string {
  try {
    return readFileSync(pidFile, "utf8").trim();
  } catch {
    // Held, but not yet written: the other one is just starting.
    return "unknown";
  }
}
