/**
 * A VMM process, from the spawn (or the adoption) to its last word.
 *
 *   spawn/adopt ─► connect control.sock ⇄ pushes of status ─► process gone ─► conclude
 *
 * The process is detached and outlives the agent. It is named by pid and start time,
 * since it is not our child after an adoption. A closed socket proves nothing: only
 * a process that is gone ends the run, and then status.json has the last word, or
 * vmm.log when the VMM did not get that far. Nobody parses prose.
 * The loop that follows a process is bounded by the process's own life; one that does
 * not open its socket, or does not leave after its end, is killed.
 */
import { closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { VMM_FILES, type VmmStatus } from "../../proto/vmm.ts";
import type { Clock } from "../../lib/clock.ts";
import type { MachineRun } from "./driver.ts";
import { type RunMetrics, usageOf } from "./metrics.ts";
import { isAlive, type ProcessName, signalProcess, startTimeOf } from "./proc.ts";
import { readLastError, readStatus } from "./vmm-files.ts";
import { VmmClient } from "./vmm-client.ts";

const CONNECT_TIMEOUT_MS = 60_000;
const LEAVE_TIMEOUT_MS = 5_000;
const TERM_TIMEOUT_MS = 3_000;
const TERM_REPEAT_MS = 50;
const POLL_MIN_MS = 4;
const POLL_MAX_MS = 100;

export type VmmProcessOptions = {
  dir: string;
  machineId: string;
  incarnation: number;
  name: ProcessName;
  clock: Clock;
};

/** What the VMM's environment keeps of ours. */
const PASSED_ON = ["PATH", "HOME", "TMPDIR", "BUN_TMPDIR", "LANG"];

/**
 * Spawns a VMM in a session of its own; `forks`: through a launcher that prints its pid.
 * Throws VMM_FAULT.
 */
export async function spawnVmm(argv: string[], dir: string, forks: boolean): Promise<ProcessName> {
  const env: Record<string, string> = {};
  for (const key of PASSED_ON) {
    const value = process.env[key];
    if (value !== undefined) env[key] = value;
  }
  const path = join(dir, VMM_FILES.log);
  // A new file, never one that is there: the machine could have made it a link.
  rmSync(path, { force: true });
  const log = openSync(path, "wx", 0o600);
  try {
    const child = Bun.spawn({
      cmd: argv,
      cwd: dir,
      env,
      detached: true,
      stdio: ["ignore", forks ? "pipe" : "ignore", log],
    });
    child.unref();
    let pid = child.pid;
    if (child.stdout !== undefined) {
      const [printed] = await Promise.all([new Response(child.stdout).text(), child.exited]);
      pid = Number(printed);
      if (!Number.isSafeInteger(pid) || pid <= 0) throw jailFailure(dir);
    }
    return { pid, startTime: startTimeOf(pid) ?? 0 };
  } catch (error) {
    if (error instanceof LvError) throw error;
    throw new LvError("VMM_FAULT", "The VMM process cannot be started", { cause: error });
  } finally {
    closeSync(log);
  }
}

/** The launcher ended before there was a VMM: what it said last. */
function jailFailure(dir: string): LvError {
  const { reason, message } = readLastError(dir);
  return new LvError(reason, message);
}

export class VmmProcess implements MachineRun {
  readonly incarnation: number;
  readonly ended: Promise<VmmStatus>;
  readonly #options: VmmProcessOptions;
  readonly #listeners = new Set<(status: VmmStatus) => void>();
  #status: VmmStatus;
  #client: VmmClient | null = null;
  /** Replaced at each change of connection; resolves at the next one. */
  #connection = Promise.withResolvers<VmmClient | null>();
  #killAsked = false;
  #detached = false;
  #finished = false;
  #complaint = "";

  constructor(options: VmmProcessOptions) {
    const { machineId, incarnation, name } = options;
    this.#options = options;
    this.incarnation = incarnation;
    this.#status = {
      machineId,
      incarnation,
      pid: name.pid,
      pidStartTime: name.startTime,
      phase: "booting",
    };
    this.ended = this.#follow();
  }

  get status(): VmmStatus {
    return this.#status;
  }

  subscribe(listener: (status: VmmStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async stop(signal: number, timeoutMs: number): Promise<void> {
    if (this.#finished) return;
    const client = this.#client ?? (await this.#connection.promise);
    await client?.request({ action: "stop", signal, timeoutMs });
  }

  async metrics(): Promise<RunMetrics> {
    const client = this.#client ?? (this.#finished ? null : await this.#connection.promise);
    if (client === null) throw new LvError("VMM_FAULT", "The VMM process is gone");
    return { ...(await client.metrics()), ...usageOf(this.#options.name.pid) };
  }

  async kill(): Promise<void> {
    if (this.#finished) return;
    this.#killAsked = true;
    const { name } = this.#options;
    signalProcess(name, "SIGTERM");
    // Again: process 1 of a namespace does not get it before it has a handler for it.
    const again = setInterval(() => signalProcess(name, "SIGTERM"), TERM_REPEAT_MS);
    const timer = setTimeout(() => signalProcess(name, "SIGKILL"), TERM_TIMEOUT_MS);
    try {
      await this.ended;
    } finally {
      clearInterval(again);
      clearTimeout(timer);
    }
  }

  /** True once the process answered for this machine and incarnation; false if it died or hangs. */
  async handshake(timeoutMs: number): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const unsubscribe = this.subscribe(() => resolve(true));
    const timer = setTimeout(() => resolve(false), timeoutMs);
    void this.ended.then(() => resolve(false));
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      unsubscribe();
    }
  }

  /** The agent leaves; the process stays. */
  detach(): void {
    this.#detached = true;
    this.#client?.close();
  }

  async #follow(): Promise<VmmStatus> {
    const { clock, name } = this.#options;
    let quietSince = clock.now();
    let delayMs = POLL_MIN_MS;
    while (isAlive(name)) {
      // After a detach the promise stays open: nobody asks any more.
      if (this.#detached) return new Promise(() => {});
      const heard = await this.#listen();
      if (heard) {
        quietSince = clock.now();
        delayMs = POLL_MIN_MS;
      }
      const patience = this.#status.phase === "ended" ? LEAVE_TIMEOUT_MS : CONNECT_TIMEOUT_MS;
      if (clock.now() - quietSince > patience) {
        this.#complaint = `The VMM process was silent for ${patience / 1000} s and was killed`;
        signalProcess(name, "SIGKILL");
      }
      await clock.sleep(delayMs);
      delayMs = Math.min(delayMs * 2, POLL_MAX_MS);
    }
    this.#finished = true;
    this.#connection.resolve(null);
    this.#status = this.#conclude();
    return this.#status;
  }

  /** One connection, to its end. False when there was none. */
  async #listen(): Promise<boolean> {
    if (this.#status.phase === "ended") return false;
    const { dir, machineId } = this.#options;
    let client: VmmClient;
    try {
      client = await VmmClient.connect(join(dir, VMM_FILES.control), machineId, (status) =>
        this.#hear(status),
      );
    } catch {
      // Not listening yet, or just gone: the loop looks at the process again.
      return false;
    }
    this.#client = client;
    this.#connection.resolve(client);
    if (this.#detached) client.close();
    await client.closed;
    this.#client = null;
    this.#connection = Promise.withResolvers();
    return true;
  }

  #hear(status: VmmStatus): void {
    const { name } = this.#options;
    const same = status.incarnation === this.incarnation && status.pid === name.pid;
    if (!same || this.#status.phase === "ended") return;
    this.#status = status;
    if (status.phase !== "ended") for (const listener of this.#listeners) listener(status);
    // The rest of the run is in status.json; what matters now is that the process leaves.
    else this.#client?.close();
  }

  #conclude(): VmmStatus {
    const { dir, machineId, clock } = this.#options;
    const last = readStatus(dir, machineId);
    if (last !== null && last.incarnation === this.incarnation && last.phase === "ended")
      return last;
    const base = { ...this.#status, phase: "ended" as const, endedAtMs: clock.now() };
    if (this.#killAsked) return { ...base, exitCode: 137, exitSignal: 9 };
    if (this.#complaint !== "") return { ...base, reason: "VMM_FAULT", message: this.#complaint };
    return { ...base, ...readLastError(dir) };
  }
}
