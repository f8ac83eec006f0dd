/**
 * A process that was started ahead of its machine: it has loaded everything and made a
 * VM of the size that machines here had last, and waits for spec.json and the action
 * "boot" on the control socket it will go on with.
 *
 * It lives as long as the agent that started it listens: when the last client leaves
 * before a boot, so does the process.
 */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import type { Shim, Vm } from "../../native/ffi.ts";
import { VMM_FILES, type VmmStatus } from "../../proto/vmm.ts";
import { refuse } from "./actions.ts";
import { listenForControl } from "./control.ts";
import { createVm } from "./machine.ts";
import { hostPid, processStartTime } from "./status.ts";

export type Prepared = { shim: Shim; vm: Vm; cpus: number; memoryMib: number };

/** pool.json: what to be ready for. */
function expected(): { cpus: number; memoryMib: number } {
  const { cpus, memoryMib } = JSON.parse(readFileSync(VMM_FILES.pool, "utf8")) as Record<
    string,
    unknown
  >;
  return { cpus: Number(cpus), memoryMib: Number(memoryMib) };
}

/** Null = nobody wants this process any more. Throws what makes a machine impossible here. */
export async function waitForBoot(loadShim: () => Shim): Promise<Prepared | null> {
  const shim = loadShim();
  const size = expected();
  const vm = createVm(shim, size);
  const status: VmmStatus = {
    machineId: basename(process.cwd()),
    incarnation: 0,
    pid: hostPid(),
    pidStartTime: processStartTime(),
    phase: "waiting",
  };
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const leave = (): void => resolve(false);
  process.on("SIGTERM", leave);
  const control = listenForControl(VMM_FILES.control, {
    status: () => status,
    metrics: () => ({ vcpus: [], devices: [] }),
    request: ({ action }) => {
      const refusal = refuse(action, "waiting");
      if (refusal !== null) return { reason: "STATE_CONFLICT", message: refusal };
      if (action === "boot") resolve(true);
      else if (action === "kill") resolve(false);
      return null;
    },
    deserted: leave,
  });
  const boots = await promise;
  process.off("SIGTERM", leave);
  control.close();
  if (boots) return { shim, vm, ...size };
  vm.destroy();
  return null;
}
