/**
 * A process that was started ahead of its machine: it has loaded everything and made a
 * VM of the kind that machines here had last, kernel and all, and waits for spec.json and the action
 * "boot" on the control socket it will go on with.
 *
 * It lives as long as the agent that started it listens: when the last client leaves
 * before a boot, so does the process.
 */
import { closeFile, openFile, readText, removeFile } from "../../lib/libc.ts";
import type { Filters, Shim } from "../../native/ffi.ts";
import { VMM_FILES, type VmmExpected, type VmmStatus } from "../../proto/vmm.ts";
import { refuse } from "./actions.ts";
import { type ControlServer, listenForControl } from "./control.ts";
import { GUEST_SOCKET, type GuestChannel, listenForGuest } from "./guest-channel.ts";
import { type Base, buildMachine, prepareMachine } from "./machine.ts";
import { makeFilters } from "./seccomp.ts";
import { parseSpec } from "./spec.ts";
import { directoryName, hostPid, processStartTime } from "./status.ts";

export type Prepared = {
  shim: Shim;
  base: Base;
  filters: Filters;
  /** They listen; who serves them is for the machine to say. */
  control: ControlServer;
  channel: GuestChannel;
};

/** What was done twice is faster than what was done once. */
const REHEARSALS = 2;

/** A spec of nothing in particular. */
const ANY_SPEC = {
  version: 1,
  machineId: "",
  incarnation: 0,
  cpus: 1,
  memoryMib: 1,
  kernelPath: "/",
  initrdPath: null,
  kernelArgs: "",
  disks: [],
  networks: [],
  process: { argv: [""], env: [], cwd: "/", user: "", stopSignal: 15 },
  hostname: "",
  resolvConf: "",
  outputLimitBytes: 1 << 20,
  initTimeoutMs: 1,
} as const;

/**
 * Builds a machine like the one to come and throws it away: the code is compiled then,
 * the calls are bound and the kernel's file is in memory. Half of a start otherwise.
 */
function rehearse(shim: Shim, expected: VmmExpected): void {
  const consoleFd = openFile("/dev/null", "update");
  try {
    // Any file does for a disk.
    const disks = [{ path: expected.kernelPath, readOnly: true, id: "" }];
    const spec = parseSpec(JSON.stringify({ ...ANY_SPEC, ...expected, disks }));
    for (let time = 0; time < REHEARSALS; time += 1) {
      const { vm } = buildMachine({ shim, spec, consoleFd, vsockPath: VMM_FILES.vsock });
      vm.destroy();
      removeFile(VMM_FILES.vsock);
    }
  } catch {
    // A machine that cannot be built here says so when it is asked for.
  } finally {
    closeFile(consoleFd);
    removeFile(VMM_FILES.vsock);
  }
}

export function discard({ base, control, channel }: Prepared): void {
  control.close();
  channel.close();
  base.vm.destroy();
  removeFile(VMM_FILES.vsock);
}

/** Null = nobody wants this process any more. Throws what makes a machine impossible here. */
export async function waitForBoot(loadShim: () => Shim): Promise<Prepared | null> {
  const shim = loadShim();
  // Written by the supervisor, as the spec is.
  const expected = JSON.parse(readText(VMM_FILES.pool)) as VmmExpected;
  rehearse(shim, expected);
  const base = prepareMachine(shim, expected, VMM_FILES.vsock);
  const channel = listenForGuest(GUEST_SOCKET);
  const filters = makeFilters();
  const status: VmmStatus = {
    machineId: directoryName(),
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
  const prepared = { shim, base, filters, control, channel };
  if (boots) return prepared;
  discard(prepared);
  return null;
}
