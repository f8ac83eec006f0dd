/** The machine's directory, and the VMM process in it. */
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../../lib/clock.ts";
import { LIMITS } from "../../../lib/limits.ts";
import { VMM_FILES, type VmmSpec } from "../../../proto/vmm.ts";
import type { RunRequest } from "../driver.ts";
import { spawnVmm, VmmProcess } from "../supervise.ts";
import { removeRunFiles } from "../vmm-files.ts";
import type { Hook } from "./hook.ts";

export const directoryHook: Hook = {
  name: "directory",
  async up(context) {
    // Undefined = it was there: an earlier run's, with its output and its disk.
    context.madeDirectory =
      (await mkdir(context.dir, { recursive: true, mode: 0o700 })) !== undefined;
  },
  async down(context) {
    if (context.madeDirectory) await rm(context.dir, { recursive: true, force: true });
  },
};

export function specFor(request: RunRequest, dir: string): VmmSpec {
  return {
    version: 1,
    machineId: request.machineId,
    incarnation: request.incarnation,
    cpus: request.cpus,
    memoryMib: request.memoryMib,
    kernelPath: request.kernelPath,
    initrdPath: request.initrdPath,
    kernelArgs: request.kernelArgs,
    disks: [
      { path: request.squashfsPath, readOnly: true, id: "rootfs" },
      { path: join(dir, VMM_FILES.scratch), readOnly: false, id: "scratch" },
    ],
    process: request.process,
    hostname: request.hostname,
    outputLimitBytes: LIMITS.outputLogBytes,
    initTimeoutMs: LIMITS.guestInitTimeoutMs,
  };
}

/** command: what is run with the machine's directory as its last argument. */
export function vmmHook(command: string[], clock: Clock): Hook {
  return {
    name: "vmm",
    async up(context) {
      const { dir, request } = context;
      removeRunFiles(dir);
      // The last word of an earlier run must not pass for this one's.
      await rm(join(dir, VMM_FILES.status), { force: true });
      await writeFile(join(dir, VMM_FILES.spec), JSON.stringify(specFor(request, dir)), {
        mode: 0o600,
      });
      context.signal.throwIfAborted();
      const { machineId, incarnation } = request;
      const name = spawnVmm(command, dir);
      context.run = new VmmProcess({ dir, machineId, incarnation, name, clock });
    },
    async down(context) {
      await context.run?.kill();
      removeRunFiles(context.dir);
      await rm(join(context.dir, VMM_FILES.status), { force: true });
    },
  };
}
