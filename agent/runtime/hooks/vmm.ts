/** The machine's directory, and the VMM process in it. */
import { closeSync, fchownSync, openSync, rmSync, writeFileSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../../lib/clock.ts";
import { LIMITS } from "../../../lib/limits.ts";
import { VMM_FILES, type VmmSpec } from "../../../proto/vmm.ts";
import type { Jail } from "../jail.ts";
import { type Pool, WARM_IMAGE } from "../pool.ts";
import { spawnVmm, VmmProcess } from "../supervise.ts";
import { removeRunFiles } from "../vmm-files.ts";
import type { Hook, HookContext } from "./hook.ts";

/** How a VMM process comes to be; the last two arguments are its entry and its directory. */
export type Launch = {
  argv(context: HookContext): Promise<string[]>;
  /** It forks the VMM off, prints its pid and ends. */
  forks: boolean;
};

/** The VMM as a child of ours, with all we can see. */
export const plainLaunch = (command: string[]): Launch => ({
  argv: ({ dir }) => Promise.resolve([...command, dir]),
  forks: false,
});

/** First of all: a process of the pool brings the machine's directory with it. */
export function warmHook(pool: Pool): Hook {
  return {
    name: "warm",
    async up(context) {
      context.warm = pool.take(context.request, context.dir);
      context.madeDirectory = context.warm !== null;
    },
    async down({ warm }) {
      warm?.discard();
    },
  };
}

export const directoryHook: Hook = {
  name: "directory",
  async up(context) {
    if (context.warm !== null) return;
    // Undefined = it was there: an earlier run's, with its output and its disk.
    const made = await mkdir(context.dir, { recursive: true, mode: 0o700 });
    context.madeDirectory = made !== undefined;
  },
  async down(context) {
    if (context.madeDirectory) await rm(context.dir, { recursive: true, force: true });
  },
};

export function specFor({ request, dir: host, network, warm }: HookContext): VmmSpec {
  // A path in the machine's directory, as its VMM has it.
  const dir = warm?.inside ?? host;
  const device = network?.device ?? null;
  const name = device?.name.replace(`${host}/`, `${dir}/`) ?? "";
  const image = warm === null ? request.squashfsPath : join(dir, WARM_IMAGE);
  return {
    version: 1,
    machineId: request.machineId,
    incarnation: request.incarnation,
    cpus: request.cpus,
    cpuTemplate: request.cpuTemplate ?? "host",
    memoryMib: request.memoryMib,
    hugepages: request.hugepages ?? false,
    kernelPath: request.kernelPath,
    initrdPath: request.initrdPath,
    kernelArgs: request.kernelArgs,
    disks: [
      { path: image, readOnly: true, id: "rootfs" },
      { path: join(dir, VMM_FILES.scratch), readOnly: false, id: "scratch" },
    ],
    networks: device === null ? [] : [{ ...device, name }],
    process: request.process,
    hostname: request.hostname,
    resolvConf: network?.resolvConf ?? "",
    outputLimitBytes: LIMITS.outputLogBytes,
    initTimeoutMs: LIMITS.guestInitTimeoutMs,
  };
}

/** The machine's own user gets what was made so far; after the hooks that make files. */
export function jailHook(jail: Jail): Hook {
  return {
    name: "jail",
    async up(context) {
      context.uid = jail.claim(context.dir);
    },
    async down(context) {
      jail.leave(context.request.machineId);
    },
  };
}

function writeSpec(path: string, context: HookContext): void {
  const fd = openSync(path, "wx", 0o600);
  try {
    writeFileSync(fd, JSON.stringify(specFor(context)));
    // By descriptor: the name is in a directory that the machine could write to.
    if (context.uid !== null) fchownSync(fd, context.uid, context.uid);
  } finally {
    closeSync(fd);
  }
}

export function vmmHook(launch: Launch, clock: Clock): Hook {
  return {
    name: "vmm",
    async up(context) {
      const { dir, request } = context;
      // Synchronous: a few small calls, each of which would wait for a thread of the pool.
      if (context.warm === null) {
        removeRunFiles(dir);
        // The last word of an earlier run must not pass for this one's.
        rmSync(join(dir, VMM_FILES.status), { force: true });
      }
      writeSpec(join(dir, VMM_FILES.spec), context);
      context.signal.throwIfAborted();
      const { machineId, incarnation } = request;
      const { warm } = context;
      const name = warm?.name ?? (await spawnVmm(await launch.argv(context), dir, launch.forks));
      await warm?.boot();
      context.run = new VmmProcess({ dir, machineId, incarnation, name, clock });
    },
    async down(context) {
      await context.run?.kill();
      removeRunFiles(context.dir);
      await rm(join(context.dir, VMM_FILES.status), { force: true });
    },
  };
}
