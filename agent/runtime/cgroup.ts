/**
 * cgroup v2 limits of machines: `<root>/leveret/<machine id>`, made before the VMM
 * process and entered by its launcher. A host without cgroup v2, or without one of the
 * controllers, still runs machines: what cannot be limited is said once in the log.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import type { Log } from "../../lib/log.ts";

const MIB = 2 ** 20;
const CONTROLLERS = ["cpu", "memory", "pids", "io"] as const;
type Controller = (typeof CONTROLLERS)[number];

/** Of the VMM itself, beyond guest memory: its heap, page tables of KVM, socket buffers. */
const OVERHEAD_MIB = 96;
const PERIOD_US = 100_000;
/** Half a CPU beside the vCPUs' own, for the thread that does the I/O. */
const IO_CPUS = 0.5;
const PIDS_BEYOND_VCPUS = 64;
const IO_WEIGHT = 100;
/** Of 100, the share of a machine that runs: who waits gets ready in the time that they leave over. */
const WAITING_CPU_WEIGHT = 1;
const REMOVE_EVERY_MS = 100;
const REMOVE_TRIES = 50;

type Limits = { machineId: string; cpus: number; memoryMib: number };

export type DiskLimit = {
  /** "major:minor"; null = the machines' disks are on none that the kernel could limit. */
  device: string | null;
  /** In io.max's own words: "rbps=1048576 wiops=100". */
  max: string;
};

export class Cgroups {
  readonly #root: string;
  readonly #controllers: ReadonlySet<Controller>;
  readonly #ioMax: string | null;
  readonly #wanted = new Set<string>();

  private constructor(root: string, controllers: ReadonlySet<Controller>, ioMax: string | null) {
    this.#root = root;
    this.#controllers = controllers;
    this.#ioMax = ioMax;
  }

  /** Null when there is no cgroup v2 that we may write to; says what is missing. */
  static open(log: Log, disk: DiskLimit | null, mount = "/sys/fs/cgroup"): Cgroups | null {
    const root = join(mount, "leveret");
    const usable = new Set<Controller>();
    try {
      const offered = readFileSync(join(mount, "cgroup.controllers"), "utf8").trim().split(" ");
      mkdirSync(root, { recursive: true });
      for (const name of CONTROLLERS)
        if (offered.includes(name) && enable(mount, name) && enable(root, name)) usable.add(name);
    } catch (error) {
      log.warn({ err: error }, "no cgroup v2: machines are not limited by cgroups");
      return null;
    }
    // What earlier agents left; a group with a process in it stays.
    for (const entry of readdirSync(root, { withFileTypes: true }))
      if (entry.isDirectory()) removed(join(root, entry.name));
    const missing = CONTROLLERS.filter((name) => !usable.has(name));
    if (missing.length > 0) log.warn({ missing }, "machines are not limited by these controllers");
    if (disk !== null && (disk.device === null || !usable.has("io")))
      log.warn({ ...disk }, "LEVERET_IO_MAX has no effect: no io controller, or no disk to name");
    const ioMax = disk === null || disk.device === null ? null : `${disk.device} ${disk.max}`;
    return new Cgroups(root, usable, ioMax);
  }

  /**
   * Makes the machine's group with its limits; returns its directory. `waits`: it is for
   * a process of the pool, which has no machine yet.
   */
  make({ machineId, cpus, memoryMib }: Limits, waits = false): string {
    const dir = join(this.#root, machineId);
    this.#wanted.add(machineId);
    mkdirSync(dir, { recursive: true });
    const set = (controller: Controller, file: string, value: string): void => {
      if (this.#controllers.has(controller)) writeFileSync(join(dir, file), value);
    };
    if (waits) set("cpu", "cpu.weight", `${WAITING_CPU_WEIGHT}`);
    set("cpu", "cpu.max", `${Math.round((cpus + IO_CPUS) * PERIOD_US)} ${PERIOD_US}`);
    set("memory", "memory.max", `${(memoryMib + OVERHEAD_MIB) * MIB}`);
    set("pids", "pids.max", `${cpus + PIDS_BEYOND_VCPUS}`);
    // A fair share of every disk, and a hard limit of the one that machines' disks are on.
    if (this.#ioMax !== null) set("io", "io.max", this.#ioMax);
    if (existsSync(join(dir, "io.weight"))) set("io", "io.weight", `default ${IO_WEIGHT}`);
    return dir;
  }

  /** Moves a process, with what it has, into a machine's group; its old one goes. */
  admit(pid: number, limits: Limits): void {
    const dir = this.make(limits);
    const line = readFileSync(`/proc/${pid}/cgroup`, "utf8").trim().split("\n").at(-1) ?? "";
    writeFileSync(join(dir, "cgroup.procs"), `${pid}`);
    this.remove(basename(line));
  }

  /** Safe twice. Goes on by itself while a last thread is still leaving the kernel. */
  remove(machineId: string): void {
    this.#wanted.delete(machineId);
    this.#tryRemove(machineId, REMOVE_TRIES);
  }

  #tryRemove(machineId: string, tries: number): void {
    // Its machine may have started again meanwhile.
    if (this.#wanted.has(machineId) || removed(join(this.#root, machineId)) || tries <= 1) return;
    setTimeout(() => this.#tryRemove(machineId, tries - 1), REMOVE_EVERY_MS).unref();
  }
}

/** False when there is something in it. */
function removed(dir: string): boolean {
  try {
    rmdirSync(dir);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "ENOENT";
  }
}

function enable(dir: string, controller: Controller): boolean {
  try {
    writeFileSync(join(dir, "cgroup.subtree_control"), `+${controller}`);
    return true;
  } catch {
    return false; // said together with the others by the caller
  }
}
