/**
 * One agent per directory. The lock file names its holder by pid and start time;
 * it is made under a name of its own and linked, so that it is never seen half
 * written. A holder that died leaves a stale file, which the next agent takes over.
 */
import { linkSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { isAlive, type ProcessName, startTimeOf } from "./proc.ts";

function readHolder(path: string): ProcessName | null {
  try {
    const [pid, startTime] = readFileSync(path, "utf8").trim().split(" ").map(Number);
    return pid === undefined || startTime === undefined ? null : { pid, startTime };
  } catch {
    // Gone, or never a lock of ours: stale either way.
    return null;
  }
}

/** Throws CONFIG_INVALID when a living agent holds the directory. */
export function lockDirectory(dir: string): Disposable {
  const path = join(dir, "agent.lock");
  const own = `${path}.${process.pid}.${crypto.randomUUID()}`;
  writeFileSync(own, `${process.pid} ${startTimeOf(process.pid) ?? 0}\n`, { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < 8; attempt += 1) {
      try {
        linkSync(own, path);
        return { [Symbol.dispose]: () => unlink(path) };
      } catch (error) {
        if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
      }
      const holder = readHolder(path);
      if (holder !== null && isAlive(holder))
        throw new LvError(
          "CONFIG_INVALID",
          `LEVERET_AGENT_DIR="${dir}" is in use by the agent with pid ${holder.pid}`,
        );
      unlink(path);
    }
    throw new LvError("CONFIG_INVALID", `Cannot lock LEVERET_AGENT_DIR="${dir}"`);
  } finally {
    unlink(own);
  }
}

function unlink(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
  }
}
