/**
 * A virtual bare-metal host: QEMU in software emulation with SVM, the outside's
 * root file system shared read-only, and nothing that can be dialled from here.
 *
 *   (none) ── startLab ──► booting ── "ready" on a loopback port ──► up
 *   up ── stopLab ──► (none)      any failure while booting ──► (none)
 *
 * The state file is written with QEMU's start; what a killed `startLab` leaves is
 * told by it and cleared by the next startLab or stopLab of that name.
 */
import { spawn } from "node:child_process";
import { createServer, type AddressInfo } from "node:net";
import { closeSync, existsSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdir, mkdtemp } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { BUN, cacheDir, CHECKOUT } from "../paths.ts";
import { isAlive, mustRun, nameProcess, stopProcess, tail } from "../setup/process.ts";
import { prepareArtifacts } from "./artifacts.ts";
import { LAB_FILES, qemuArgv, shellQuote } from "./qemu.ts";
import { readState, removeState, writeState, type LabState } from "./state.ts";

export type LabOptions = {
  name: string;
  cpus: number;
  memoryMib: number;
  diskMib: number;
  signal?: AbortSignal;
};

export const LAB_DEFAULTS = { name: "default", cpus: 2, memoryMib: 4096, diskMib: 32 << 10 };

const BOOT_TIMEOUT_MS = 180_000;
/** The lab is read-only outside of its own disk: nothing is lost by a quick end. */
const STOP_GRACE_MS = 2_000;

export function labDir(): string {
  return join(cacheDir(), "lab");
}

/** The lab of that name when it is really up, else null. */
export function findLab(name: string): (LabState & { bootMs: number }) | null {
  const state = readState(labDir(), name);
  if (state === null || state.bootMs === null || !isAlive(state)) return null;
  return { ...state, bootMs: state.bootMs };
}

/** Boots a lab and returns when commands can run in it. Throws STATE_CONFLICT when it is up. */
export async function startLab(options: LabOptions): Promise<LabState & { bootMs: number }> {
  const dir = labDir();
  const { name } = options;
  refuseSecond(readState(dir, name));
  await stopLab(name);
  await mkdir(dir, { recursive: true });
  const artifacts = await prepareArtifacts(dir);
  const runDir = await mkdtemp(join(tmpdir(), "lvlab-"));
  const diskPath = join(dir, `${name}.disk`);
  const ready = listenForReady();
  try {
    await makeDisk(diskPath, options.diskMib);
    writeFileSync(join(runDir, LAB_FILES.env), bootEnv(await ready.port));
    options.signal?.throwIfAborted();
    const began = performance.now();
    const child = launch(runDir, qemuArgv({ ...options, artifacts, runDir, diskPath }));
    const { cpus, memoryMib } = options;
    const owner = nameProcess(process.pid);
    const qemu = nameProcess(child.pid);
    const booting = { name, ...qemu, runDir, diskPath, cpus, memoryMib, bootMs: null, owner };
    writeState(dir, booting);
    await waitReady(ready.announced, child.exited, runDir, options.signal);
    const state = { ...booting, bootMs: Math.round(performance.now() - began) };
    writeState(dir, state);
    return state;
  } catch (error) {
    await stopLab(name);
    rmSync(runDir, { recursive: true, force: true });
    rmSync(diskPath, { force: true });
    throw error;
  } finally {
    ready.close();
  }
}

function refuseSecond(state: LabState | null): void {
  if (state === null || !isAlive(state)) return;
  if (state.bootMs !== null)
    throw new LvError("STATE_CONFLICT", `Lab "${state.name}" is up already (pid ${state.pid})`);
  if (isAlive(state.owner))
    throw new LvError(
      "STATE_CONFLICT",
      `Lab "${state.name}" is being booted by process ${state.owner.pid}`,
    );
}

/** Ends the lab and removes what it left. Safe twice; returns false when there was none. */
export async function stopLab(name: string): Promise<boolean> {
  const dir = labDir();
  const state = readState(dir, name);
  if (state === null) return false;
  const wasAlive = isAlive(state);
  await stopProcess(state, STOP_GRACE_MS);
  rmSync(state.runDir, { recursive: true, force: true });
  rmSync(state.diskPath, { force: true });
  removeState(dir, name);
  return wasAlive;
}

async function makeDisk(path: string, sizeMib: number): Promise<void> {
  rmSync(path, { force: true });
  await mustRun("make the lab's disk", [
    "mkfs.ext4",
    "-q",
    "-F",
    "-m",
    "0",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1",
    path,
    `${sizeMib}M`,
  ]);
}

/** Read by the shell that is the lab's PID 1; `keep` = directories its tmpfs must not hide. */
function bootEnv(readyPort: number): string {
  const hidden = [CHECKOUT, cacheDir()].filter((path) => /^\/(tmp|run|var\/run)\//.test(path));
  const values = {
    ready: String(readyPort),
    bun: BUN,
    checkout: CHECKOUT,
    cache: cacheDir(),
    home: homedir(),
    keep: hidden.filter((path) => existsSync(path)).join("\n"),
  };
  return Object.entries(values)
    .map(([key, value]) => `${key}=${shellQuote(value)}\n`)
    .join("");
}

function launch(runDir: string, argv: string[]): { pid: number; exited: Promise<number> } {
  const log = openSync(join(runDir, LAB_FILES.qemu), "w");
  const [program = "", ...args] = argv;
  const child = spawn(program, args, { detached: true, stdio: ["ignore", log, log] });
  closeSync(log);
  const exited = new Promise<number>((resolve) => {
    child.once("exit", (code) => resolve(code ?? 1));
    child.once("error", () => resolve(127));
  });
  child.unref();
  if (child.pid === undefined)
    throw new LvError(
      "TOOL_MISSING",
      "qemu-system-x86_64 is not installed: apt-get install qemu-system-x86",
    );
  return { pid: child.pid, exited };
}

/** The lab's server dials this port once and says "ready". */
function listenForReady(): { port: Promise<number>; announced: Promise<void>; close(): void } {
  const server = createServer();
  const announced = new Promise<void>((resolve) => {
    server.on("connection", (socket) => {
      socket.on("error", () => socket.destroy());
      socket.on("data", (chunk) => {
        if (chunk.toString("utf8").startsWith("ready")) resolve();
        socket.destroy();
      });
    });
  });
  const port = new Promise<number>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port));
  });
  return { port, announced, close: () => void server.close() };
}

async function waitReady(
  announced: Promise<void>,
  exited: Promise<number>,
  runDir: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const deadline = AbortSignal.timeout(BOOT_TIMEOUT_MS);
  const stop = signal ? AbortSignal.any([signal, deadline]) : deadline;
  const aborted = new Promise<never>((_, reject) => {
    stop.addEventListener("abort", () =>
      reject(
        signal?.aborted === true
          ? new LvError("CANCELLED", "Interrupted while the lab booted")
          : new LvError(
              "TIMEOUT",
              `The lab was not up after ${BOOT_TIMEOUT_MS / 1000} s${logs(runDir)}`,
            ),
      ),
    );
  });
  const died = exited.then((code) => {
    throw new LvError("INTERNAL", `The lab's QEMU ended with ${code} while booting${logs(runDir)}`);
  });
  await Promise.race([announced, died, aborted]);
}

function logs(runDir: string): string {
  const read = (file: string): string => {
    try {
      return readFileSync(join(runDir, file), "utf8");
    } catch {
      return "";
    }
  };
  return tail(read(LAB_FILES.console) + read(LAB_FILES.qemu), 12);
}
