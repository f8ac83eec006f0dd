/**
 * The processes of a quickstart, each started on a free loopback port and stopped
 * by pid. A service's standard output and error go to a file of the run directory;
 * its tail is part of the error when it does not come up.
 */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { adminToken } from "../credentials.ts";
import { BUN, CHECKOUT } from "../paths.ts";
import { isAlive, nameProcess, stopProcess, tail, type ProcessName } from "./process.ts";

export type Service = AsyncDisposable & { name: string; process: ProcessName; logPath: string };

const STOP_GRACE_MS = 15_000;
const UP_TIMEOUT_MS = 60_000;
const POLL_MS = 50;

/** Starts a program and keeps it; disposing stops it. It dies with us only by that. */
export function startService(
  runDir: string,
  name: string,
  argv: string[],
  env: Record<string, string>,
): Service {
  const logPath = join(runDir, `${name}.log`);
  // Not for others: the control plane says its first token in it.
  const log = openSync(logPath, "a", 0o600);
  const [program = "", ...args] = argv;
  // A session of its own: the terminal's Ctrl-C must reach us alone, who stop it in order.
  const child = spawn(program, args, {
    cwd: runDir,
    env: { ...process.env, ...env },
    detached: true,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  child.on("error", () => undefined); // no pid, below
  if (child.pid === undefined)
    throw new LvError("TOOL_MISSING", `"${program}" is not installed: ./lev doctor says more`);
  const named = nameProcess(child.pid);
  return {
    name,
    process: named,
    logPath,
    [Symbol.asyncDispose]: () => stopProcess(named, STOP_GRACE_MS),
  };
}

/** Polls until the probe says true. Throws when the service ends or the time is over. */
export async function untilUp(
  service: Service,
  probe: () => Promise<boolean>,
  signal: AbortSignal,
): Promise<void> {
  const deadline = systemClock.now() + UP_TIMEOUT_MS;
  while (!(await probe())) {
    const log = (): string => tail(readFileSync(service.logPath, "utf8"), 12);
    if (!isAlive(service.process))
      throw new LvError("INTERNAL", `The ${service.name} ended while starting${log()}`);
    if (systemClock.now() > deadline)
      throw new LvError("TIMEOUT", `The ${service.name} is not up after 60 s${log()}`);
    await systemClock.sleep(POLL_MS, signal);
  }
}

/** True when the address answers with any success. */
export async function answers(url: string): Promise<boolean> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(2_000) });
    await response.body?.cancel();
    return response.ok;
  } catch {
    return false; // not listening yet
  }
}

/** `wanted` when it is free, else any free port. Somebody may take it before it is used. */
export async function freePort(wanted = 0): Promise<number> {
  return (await tryPort(wanted)) ?? (await tryPort(0)) ?? 0;
}

function tryPort(port: number): Promise<number | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(null));
    server.listen(port, "127.0.0.1", () => {
      const taken = (server.address() as AddressInfo).port;
      server.close(() => resolve(taken));
    });
  });
}

/** Debian's docker-registry with its storage in the run directory. */
export async function startRegistry(
  runDir: string,
  signal: AbortSignal,
): Promise<Service & { host: string }> {
  const host = `127.0.0.1:${await freePort()}`;
  const storage = join(runDir, "registry");
  mkdirSync(storage);
  const config = join(runDir, "registry.yml");
  writeFileSync(
    config,
    `version: 0.1
log: { level: warn }
storage:
  filesystem: { rootdirectory: ${JSON.stringify(storage)} }
http: { addr: ${host} }
`,
  );
  const service = startService(runDir, "registry", ["docker-registry", "serve", config], {});
  await disposeOnFailure(
    service,
    untilUp(service, () => answers(`http://${host}/v2/`), signal),
  );
  return { ...service, host };
}

export type ControlPlane = Service & {
  url: string;
  grpcAddress: string;
  /** Of its first admin. */
  token: string;
};

/** A control plane with its own PostgreSQL in `dataDir`. */
export async function startControlPlane(
  runDir: string,
  ports: { http: number; grpc: number },
  signal: AbortSignal,
): Promise<ControlPlane> {
  const argv = [BUN, "--no-env-file", join(CHECKOUT, "cp", "main.ts")];
  const url = `http://127.0.0.1:${ports.http}`;
  const service = startService(runDir, "control plane", argv, {
    LEVERET_HTTP_HOST: "127.0.0.1",
    HTTP_PORT: String(ports.http),
    LEVERET_GRPC_HOST: "127.0.0.1",
    GRPC_PORT: String(ports.grpc),
    LEVERET_INSECURE_LINK: "0",
    LEVERET_SECRET_KEY: "",
    LEVERET_CP_DIR: join(runDir, "cp"),
    DATABASE_URL: "",
    LEVERET_BOOTSTRAP_TOKEN: "",
  });
  await disposeOnFailure(
    service,
    untilUp(service, () => answers(`${url}/readyz`), signal),
  );
  const token = adminToken(join(runDir, "cp"));
  if (token === null) {
    await service[Symbol.asyncDispose]();
    throw new LvError("INTERNAL", "The control plane wrote no admin token");
  }
  return { ...service, url, grpcAddress: `127.0.0.1:${ports.grpc}`, token };
}

async function disposeOnFailure(service: Service, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    await service[Symbol.asyncDispose]();
    throw error;
  }
}
