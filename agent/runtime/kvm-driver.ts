/**
 * Runs machines as VMM processes. A start is a list of hooks; when one fails, those
 * that were begun are undone in reverse order. State on disk: `<dir>/<machine id>/`,
 * see proto/vmm.ts. Only VMM processes whose argument is a directory inside `dir`
 * are ever touched.
 */
import { accessSync, constants, readdirSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Clock } from "../../lib/clock.ts";
import type { Log } from "../../lib/log.ts";
import { LvError } from "../../proto/errors.ts";
import { MachineId } from "../../proto/ids.ts";
import { VMM_FILES } from "../../proto/vmm.ts";
import type { Driver, Found, MachineRun, RunRequest } from "./driver.ts";
import type { Hook, HookContext } from "./hooks/hook.ts";
import { passtHook, tapHook } from "./hooks/network.ts";
import { rootfsHook } from "./hooks/rootfs.ts";
import {
  directoryHook,
  jailHook,
  type Launch,
  plainLaunch,
  vmmHook,
  warmHook,
} from "./hooks/vmm.ts";
import { type Jail, VMM_PROGRAM } from "./jail.ts";
import { killPasst } from "./passt.ts";
import type { Bridge } from "./tap.ts";
import { isAlive, listProcesses, type ProcessName, signalProcess, startTimeOf } from "./proc.ts";
import { VmmProcess } from "./supervise.ts";
import { isPoolName, Pool } from "./pool.ts";
import { readStatus, removeRunFiles } from "./vmm-files.ts";

/** Long: on a host that is busy a healthy VMM may be slow, and giving up kills it. */
const HANDSHAKE_TIMEOUT_MS = 30_000;
const KILL_POLL_MS = 5;
const KILL_TIMEOUT_MS = 5_000;

export type KvmDriverOptions = {
  /** Machine directories live here; absolute. */
  dir: string;
  clock: Clock;
  log: Log;
  /** What is run as the VMM; the machine's directory is appended. */
  command?: string[];
  /** Checked before each start; null = not at all (tests with another VMM). */
  kvmDevice?: string | null;
  hooks?: Hook[];
  /** Null = the VMM runs as what the agent is, with all it can see. */
  jail?: Jail | null;
  /** Processes that wait for machines, in jails; 0 = every start is a cold one. */
  poolSize?: number;
  /** The path of passt; null = machines have no network. */
  passt?: string | null;
  /** In its place, and only with a jail that has the same bridge. */
  bridge?: Bridge | null;
};

/** The VMM of this source tree, under the Bun that runs the agent. */
export function vmmCommand(): string[] {
  return [process.execPath, join(dirname(import.meta.dir), "vmm", "main.ts")];
}

function hooksFor(command: string[], options: KvmDriverOptions, pool: Pool | null): Hook[] {
  const { jail = null, passt = null, bridge = null, clock } = options;
  const userMode = passt === null ? [] : [passtHook(passt, clock)];
  const network = bridge === null || jail === null ? userMode : [tapHook(bridge, jail)];
  if (jail === null)
    return [directoryHook, rootfsHook, ...network, vmmHook(plainLaunch(command), clock)];
  const jailed: Launch = {
    argv: ({ request, dir, uid }) => jail.command(request, dir, uid ?? jail.claim(dir)),
    forks: true,
  };
  const warm = pool === null ? [] : [warmHook(pool)];
  const hooks = [directoryHook, rootfsHook, jailHook(jail), ...network, vmmHook(jailed, clock)];
  return [...warm, ...hooks];
}

export class KvmDriver implements Driver {
  readonly #options: KvmDriverOptions;
  readonly #hooks: Hook[];
  readonly #pool: Pool | null;
  readonly #entryNames: readonly string[];
  readonly #runs = new Map<string, VmmProcess>();

  constructor(options: KvmDriverOptions) {
    const command = options.command ?? vmmCommand();
    this.#options = options;
    // With and without a jail: an agent adopts what it started before it was configured anew.
    this.#entryNames = [basename(command.at(-1) ?? ""), basename(VMM_PROGRAM)];
    const { jail = null, poolSize: size = 0, dir, clock, log } = options;
    this.#pool = jail !== null && size > 0 ? new Pool({ dir, size, jail, clock, log }) : null;
    this.#hooks = options.hooks ?? hooksFor(command, options, this.#pool);
  }

  async start(request: RunRequest, signal: AbortSignal): Promise<MachineRun> {
    this.#checkKvm();
    const context: HookContext = {
      request,
      dir: this.#dirOf(request.machineId),
      signal,
      madeDirectory: false,
      madeScratch: false,
      uid: null,
      warm: null,
      network: null,
      run: null,
    };
    const begun: Hook[] = [];
    try {
      for (const hook of this.#hooks) {
        signal.throwIfAborted();
        begun.unshift(hook);
        await hook.up(context);
      }
      signal.throwIfAborted();
      if (context.run === null) throw new LvError("VMM_FAULT", "No hook started a VMM process");
      this.#keep(request.machineId, context.run, context.dir);
      return context.run;
    } catch (error) {
      for (const hook of begun) await this.#undo(hook, context);
      throw error;
    }
  }

  async find(): Promise<Found[]> {
    await mkdir(this.#options.dir, { recursive: true, mode: 0o700 });
    const alive = this.#vmmsByMachine();
    await this.#removeOldPool(alive);
    const ids = new Set([...alive.keys(), ...readdirSync(this.#options.dir)]);
    return Promise.all(
      [...ids]
        .filter((machineId) => MachineId.is(machineId))
        .map((machineId) => this.#adopt(machineId, alive.get(machineId) ?? [])),
    );
  }

  async destroy(machineId: string): Promise<void> {
    MachineId.parse(machineId);
    await this.#runs.get(machineId)?.kill();
    // Also one that this agent never knew.
    for (const name of this.#vmmsByMachine().get(machineId) ?? []) await this.#killNow(name);
    this.#options.jail?.leave(machineId);
    killPasst(machineId);
    await rm(this.#dirOf(machineId), { recursive: true, force: true, maxRetries: 3 });
  }

  outputPath(machineId: string): string {
    return join(this.#dirOf(machineId), VMM_FILES.output);
  }

  close(): void {
    this.#pool?.close();
    for (const run of this.#runs.values()) run.detach();
  }

  /** Machines that could start at once. */
  get warm(): number {
    return this.#pool?.ready ?? 0;
  }

  #dirOf(machineId: string): string {
    return join(this.#options.dir, machineId);
  }

  #checkKvm(): void {
    const device = this.#options.kvmDevice === undefined ? "/dev/kvm" : this.#options.kvmDevice;
    if (device === null) return;
    try {
      accessSync(device, constants.R_OK | constants.W_OK);
    } catch (error) {
      throw new LvError(
        "KVM_MISSING",
        `${device} cannot be opened on this host: see \`lev doctor\``,
        {
          cause: error,
        },
      );
    }
  }

  #keep(machineId: string, run: VmmProcess, dir: string): void {
    this.#runs.set(machineId, run);
    void run.ended.then(() => {
      if (this.#runs.get(machineId) !== run) return;
      this.#runs.delete(machineId);
      // At once, not later: the next start makes files of the same names.
      removeRunFiles(dir);
      this.#options.jail?.leave(machineId);
      killPasst(machineId);
    });
  }

  async #undo(hook: Hook, context: HookContext): Promise<void> {
    try {
      await hook.down(context);
    } catch (error) {
      // The others are undone all the same; destroy removes the rest.
      const { machineId } = context.request;
      this.#options.log.error({ err: error, machineId, hook: hook.name }, "undo failed");
    }
  }

  /** Living VMM processes whose machine directory is inside ours. */
  #vmmsByMachine(): Map<string, ProcessName[]> {
    const prefix = `${this.#options.dir}/`;
    const found = new Map<string, ProcessName[]>();
    for (const { pid, argv } of listProcesses()) {
      const last = argv.at(-1) ?? "";
      if (pid === process.pid || !last.startsWith(prefix)) continue;
      // Not somebody's `ls` of the directory.
      if (!this.#entryNames.includes(basename(argv.at(-2) ?? ""))) continue;
      const name = last.slice(prefix.length);
      const startTime = startTimeOf(pid);
      if (startTime === null) continue;
      const machineId = isPoolName(name) ? (this.#machineOf(pid, startTime) ?? name) : name;
      if (!MachineId.is(machineId) && !isPoolName(machineId)) continue;
      const names = found.get(machineId) ?? [];
      names.push({ pid, startTime });
      found.set(machineId, names);
    }
    return found;
  }

  /** The machine that a process of a pool became: its directory's status names it. */
  #machineOf(pid: number, startTime: number): string | null {
    const { dir } = this.#options;
    const isIts = (machineId: string): boolean => {
      const status = readStatus(join(dir, machineId), machineId);
      return status?.pid === pid && status.pidStartTime === startTime;
    };
    return readdirSync(dir).find((name) => MachineId.is(name) && isIts(name)) ?? null;
  }

  /** What an agent that crashed had started ahead. */
  async #removeOldPool(alive: Map<string, ProcessName[]>): Promise<void> {
    for (const [id, names] of alive)
      if (isPoolName(id)) for (const name of names) await this.#killNow(name);
    for (const name of readdirSync(this.#options.dir))
      if (isPoolName(name)) await rm(this.#dirOf(name), { recursive: true, force: true });
  }

  /** Pid, start time and a handshake on the control socket make a run ours. */
  async #adopt(machineId: string, alive: ProcessName[]): Promise<Found> {
    const dir = this.#dirOf(machineId);
    const last = readStatus(dir, machineId);
    let run: VmmProcess | null = null;
    for (const name of alive) {
      const claimed =
        last !== null && last.pid === name.pid && last.pidStartTime === name.startTime;
      if (claimed && run === null) {
        const { incarnation } = last;
        const candidate = new VmmProcess({
          dir,
          machineId,
          incarnation,
          name,
          clock: this.#options.clock,
        });
        if (await candidate.handshake(HANDSHAKE_TIMEOUT_MS)) {
          run = candidate;
          continue;
        }
        if (!isAlive(name)) continue;
      }
      this.#options.log.warn({ machineId, pid: name.pid }, "killing a VMM that cannot be adopted");
      await this.#killNow(name);
    }
    if (run !== null) this.#keep(machineId, run, dir);
    else removeRunFiles(dir);
    return { machineId, run, last: run === null ? readStatus(dir, machineId) : null };
  }

  async #killNow(name: ProcessName): Promise<void> {
    signalProcess(name, "SIGKILL");
    const { clock } = this.#options;
    const deadline = clock.now() + KILL_TIMEOUT_MS;
    while (isAlive(name)) {
      if (clock.now() > deadline)
        throw new LvError("VMM_FAULT", `The process ${name.pid} does not die`);
      await clock.sleep(KILL_POLL_MS);
    }
  }
}
