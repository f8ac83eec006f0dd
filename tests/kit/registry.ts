/**
 * Debian's docker-registry on a free loopback port with storage of its own. As a program:
 *   bun tests/kit/registry.ts --dir DIR [--port N]     (foreground, until SIGTERM)
 */
import { mkdirSync, mkdtempSync, openSync, closeSync, readFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { systemClock } from "../../lib/clock.ts";
import { shutdownSignal } from "../../lib/signals.ts";

export type Registry = AsyncDisposable & {
  /** "127.0.0.1:PORT" */
  host: string;
  logPath: string;
  /** Root of its storage; blobs lie under docker/registry/v2/blobs. */
  storage: string;
  /** Settles when the process has ended. */
  exited: Promise<number>;
  close(): Promise<void>;
};

/** With `dir` the storage stays after close; without, everything goes. */
export async function startRegistry(
  options: { dir?: string; port?: number } = {},
): Promise<Registry> {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), "lev-registry-"));
  mkdirSync(dir, { recursive: true });
  const logPath = join(dir, "registry.log");
  const storage = join(dir, "storage");
  const configPath = join(dir, "config.yml");
  await writeFile(configPath, config(storage, options.port ?? 0));
  const logFile = openSync(logPath, "w");
  const child = Bun.spawn(["docker-registry", "serve", configPath], {
    stdin: "ignore",
    stdout: logFile,
    stderr: logFile,
    env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin" },
  });
  closeSync(logFile);
  const close = async (): Promise<void> => {
    child.kill("SIGTERM");
    await child.exited;
    if (options.dir === undefined) await rm(dir, { recursive: true, force: true });
  };
  try {
    const host = await listening(logPath, child);
    return { host, logPath, storage, exited: child.exited, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

const config = (storage: string, port: number): string =>
  JSON.stringify({
    version: 0.1,
    log: { level: "info" },
    storage: { filesystem: { rootdirectory: storage }, delete: { enabled: true } },
    http: { addr: `127.0.0.1:${port}` },
  });

/** The registry says in its log where it listens; that also holds for port 0. */
async function listening(logPath: string, child: Bun.Subprocess): Promise<string> {
  const deadline = systemClock.now() + 15_000;
  while (systemClock.now() < deadline) {
    const log = readFileSync(logPath, "utf8");
    const host = /listening on (127\.0\.0\.1:\d+)/.exec(log)?.[1];
    if (host !== undefined) return host;
    if (child.exitCode !== null) throw new Error(`docker-registry ended: ${log.slice(-2000)}`);
    await systemClock.sleep(20);
  }
  throw new Error("docker-registry did not listen within 15 s");
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { dir: { type: "string" }, port: { type: "string" } } });
  const stop = shutdownSignal();
  const registry = await startRegistry({
    ...(values.dir === undefined ? {} : { dir: values.dir }),
    port: Number(values.port ?? 0),
  });
  process.stdout.write(`${registry.host}\n`);
  const stopped = new Promise<void>((resolve) => {
    stop.addEventListener("abort", () => resolve(), { once: true });
  });
  await Promise.race([registry.exited, stopped]);
  await registry.close();
}
