/**
 * Where a machine's VMM process is locked up: a user of its own, namespaces, a root
 * that holds only what this machine needs, a cgroup, no capabilities. The work is done
 * by native/jail; this file decides what goes in.
 *
 * A machine's user (and group) number is the owner of its directory, and nothing else
 * records it: it lives and dies with the directory, a crash cannot separate the two,
 * and what the VMM runs as cannot change it. A number is free again when its directory
 * is gone, which is after its process is.
 *
 * What the VMM could write to (its directory) is never trusted: see vmm-files.ts.
 */
import { lchownSync, lstatSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { chmod, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { VMM_FILES } from "../../proto/vmm.ts";
import type { Cgroups } from "./cgroup.ts";
import type { RunRequest } from "./driver.ts";

const MIB = 2 ** 20;
/** Machines on one host; numbers above the base that are ours. */
const UIDS = 65_536;
/** Output logs and what else a machine writes is far smaller. */
const FILE_MIN_MIB = 64;

const DISK_MAX_BYTES = 2 ** 42;

/** What of a machine is in its jail; squashfsPath null = its image comes later, by link. */
export type Contents = Pick<
  RunRequest,
  "machineId" | "cpus" | "memoryMib" | "kernelPath" | "initrdPath"
> & { squashfsPath: string | null };

const OWN_FILES: readonly string[] = [...Object.values(VMM_FILES), `${VMM_FILES.output}.1`];

export type JailOptions = {
  /** First of 65,536 user numbers that nobody else on this host uses. */
  uidBase: number;
  /** Machine directories live here. */
  dir: string;
  /** Null = this host gives us none. */
  cgroups: Cgroups | null;
  kvmDevice?: string;
  /** Machines get an interface on this bridge of the host; null = they get none. */
  bridge?: string | null;
};

const OUT = join(dirname(dirname(import.meta.dir)), "native", "out");

/** The VMM with its Bun in one file, the same for every machine. */
export const VMM_PROGRAM = join(OUT, "leveret-vmm");
const JAILED_PROGRAM = "/bin/leveret-vmm";
const LAUNCHER = join(OUT, "leveret-jail");
const SHIM = { source: join(OUT, "libleveret.so"), target: "/lib/libleveret.so" };
const LOADER = "/lib64/ld-linux-x86-64.so.2";

export class Jail {
  readonly #options: JailOptions;
  readonly #runtime = runtimeFiles();

  constructor(options: JailOptions) {
    this.#options = options;
  }

  /**
   * Gives the machine's directory and its files to the machine's own user; returns its
   * number. By name: a link to an image that others share must stay root's.
   */
  claim(dir: string): number {
    // No await from here to the chown: two starts must not find the same number free.
    const owner = lstatSync(dir).uid;
    const uid = this.#isOurs(owner) ? owner : this.#freeUid();
    lchownSync(dir, uid, uid);
    const present = new Set(readdirSync(dir));
    for (const name of OWN_FILES) if (present.has(name)) lchownSync(join(dir, name), uid, uid);
    return uid;
  }

  /** What is executed to have `VMM_PROGRAM <dir>` in a jail; it prints the VMM's pid. */
  async command(request: Contents, dir: string, uid: number): Promise<string[]> {
    const { cgroups, kvmDevice = "/dev/kvm", bridge = null } = this.#options;
    const argv = [LAUNCHER, "--uid", `${uid}`, "--dir", dir, "--kvm", kvmDevice];
    argv.push("--file-bytes", `${await fileLimit(request, dir)}`);
    const waits = request.squashfsPath === null;
    if (cgroups !== null) argv.push("--cgroup", cgroups.make(request, waits));
    if (bridge !== null) argv.push("--tap", bridge);
    const files = [request.kernelPath];
    if (request.squashfsPath !== null) {
      // The image is a file of ours, whatever the umask of the agent that made it.
      await chmod(request.squashfsPath, 0o644);
      files.push(request.squashfsPath);
    }
    if (request.initrdPath !== null) files.push(request.initrdPath);
    for (const file of files) argv.push(...(await readableFile(file)));
    for (const { source, target } of this.#runtime) argv.push("--file", source, "--at", target);
    return [...argv, "--", JAILED_PROGRAM, dir];
  }

  /** 0 for the first of the host's machines; no two have the same. */
  numberOf(uid: number): number {
    return uid - this.#options.uidBase;
  }

  /** Moves a process that was started ahead under the limits of its machine. */
  admit(pid: number, request: RunRequest): void {
    this.#options.cgroups?.admit(pid, request);
  }

  /** When the machine's process is gone. Safe twice. */
  leave(machineId: string): void {
    this.#options.cgroups?.remove(machineId);
  }

  #isOurs(uid: number): boolean {
    return uid >= this.#options.uidBase && uid < this.#options.uidBase + UIDS;
  }

  #freeUid(): number {
    const { dir, uidBase } = this.#options;
    const owner = (name: string): number | undefined =>
      // One that is being destroyed meanwhile is gone: its process went first.
      lstatSync(join(dir, name), { throwIfNoEntry: false })?.uid;
    const taken = new Set(readdirSync(dir).map(owner));
    for (let uid = uidBase; uid < uidBase + UIDS; uid += 1) if (!taken.has(uid)) return uid;
    throw new LvError("NO_CAPACITY", `All ${UIDS} user numbers of this host are in use`);
  }
}

/** No file of a machine needs more bytes. */
async function fileLimit({ memoryMib, squashfsPath }: Contents, dir: string): Promise<number> {
  // Started ahead: its disk is not known yet, and is no larger than a disk may be.
  if (squashfsPath === null) return DISK_MAX_BYTES;
  const scratch = await stat(join(dir, VMM_FILES.scratch));
  const largestMib = Math.max(memoryMib, scratch.size / MIB, FILE_MIN_MIB);
  // One page more: the limit is on offsets, and a file of just that size is in order.
  return Math.ceil(largestMib) * MIB + 4096;
}

/** Throws CONFIG_INVALID when this process cannot make jails at all. */
export function checkJail(): void {
  if (process.getuid?.() === 0) return;
  throw new LvError(
    "CONFIG_INVALID",
    "Machines run in jails, which only root can make: run the agent as root, or set LEVERET_JAIL=off to run them as its own user",
  );
}

/**
 * The runtime's own files. The agent runs on the Bun that is in the program: what it
 * has mapped is what the VMM will map, on every distribution.
 */
function runtimeFiles(): { source: string; target: string }[] {
  const maps = readFileSync("/proc/self/maps", "utf8");
  const libraries = new Set(
    [...maps.matchAll(/ (\/\S+\/(?:lib[\w+-]+|ld-linux-x86-64)\.so(?:\.\d+)*)$/gm)]
      .map((match) => match[1] ?? "")
      .filter((path) => path !== SHIM.source),
  );
  const loader = realpathSync(LOADER);
  libraries.delete(loader);
  return [
    { source: VMM_PROGRAM, target: JAILED_PROGRAM },
    SHIM,
    { source: loader, target: LOADER },
    ...[...libraries].map((path) => ({ source: path, target: path })),
  ];
}

/** Kernels are somebody else's files: they are not changed, only refused by name. */
async function readableFile(path: string): Promise<string[]> {
  let source: string;
  try {
    source = realpathSync(path);
    if (((await stat(source)).mode & 0o004) === 0)
      throw new LvError(
        "KERNEL_NOT_FOUND",
        `${path} cannot be read by machines, which run as users of their own: chmod a+r ${source}`,
      );
  } catch (error) {
    if (error instanceof LvError) throw error;
    throw new LvError("KERNEL_NOT_FOUND", `Cannot open ${path}`, { cause: error });
  }
  return ["--file", source, "--at", path];
}
