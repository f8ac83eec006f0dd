/**
 * Start: room → image → hooks and VMM → boot. The op ends when the image's process
 * runs (or has ended already). Idempotent by incarnation: a run that exists is
 * followed, a run that has ended is never begun again.
 *
 * An abort means that a newer op wants the machine: the wait for the image ends (the
 * build goes on) or the booting VMM is killed, and the status is left to that op.
 */
import { abortReason } from "../../../lib/clock.ts";
import { LvError, isReason } from "../../../proto/errors.ts";
import {
  type MachineSpec,
  MachineState,
  type Op,
  type StartMachine,
} from "../../../proto/gen/leveret/v1/agent_pb.js";
import { CPU_TEMPLATES, type CpuTemplate } from "../../../proto/vmm.ts";
import type { MachineRun, RunRequest } from "../driver.ts";
import { buildProcess } from "../process-spec.ts";
import { ensureImage } from "./ensure-image.ts";
import { isResting, oneLine } from "./status.ts";
import { stopRun } from "./stop.ts";
import type { HostServices, MachineHandle } from "./types.ts";

/** For a run of an older incarnation that a start finds in its way. */
const REPLACE_TIMEOUT_MS = 10_000;

/** Throws LvError when the machine did not come up; its status says the same. */
export async function startMachine(
  host: HostServices,
  machine: MachineHandle,
  op: Op,
  command: StartMachine,
  signal: AbortSignal,
): Promise<void> {
  const { spec, incarnation } = command;
  if (spec === undefined) throw new LvError("BAD_REQUEST", "The start command carries no spec");
  if (incarnation < machine.status.incarnation)
    throw new LvError("SUPERSEDED", "A newer run of this machine was begun");
  if (incarnation === machine.status.incarnation && incarnation > 0n) {
    if (isResting(machine.status.state)) {
      machine.update({ generation: op.generation });
      return assertHealthy(machine);
    }
    if (machine.run !== null) {
      machine.update({ generation: op.generation });
      return waitForBoot(machine, machine.run, signal);
    }
  }
  if (machine.run !== null) await stopRun(machine.run, 0, REPLACE_TIMEOUT_MS, signal);

  const run = await beginRun(host, machine, op, spec, incarnation, signal);
  machine.attach(run);
  await waitForBoot(machine, run, signal);
}

async function beginRun(
  host: HostServices,
  machine: MachineHandle,
  op: Op,
  spec: MachineSpec,
  incarnation: bigint,
  signal: AbortSignal,
): Promise<MachineRun> {
  const need = {
    cpus: spec.cpus,
    memoryMib: Number(spec.memoryMib),
    diskMib: Number(spec.diskMib),
  };
  const fresh = {
    generation: op.generation,
    incarnation,
    reason: "",
    message: "",
    exited: false,
    exitCode: 0,
    exitSignal: 0,
    bootUs: 0n,
    startedAtMs: 0n,
    stoppedAtMs: 0n,
    cpus: spec.cpus,
    memoryMib: spec.memoryMib,
    diskMib: spec.diskMib,
  };
  try {
    host.checkRoom(machine.id, need);
    // From here on the machine counts; nothing was awaited since the check.
    machine.update({ ...fresh, state: MachineState.STARTING }, spec);
    const kernel = await host.kernels.resolve(spec);
    const image = await ensureImage(host, op, spec.image, signal);
    machine.update({ imageDigest: image.digest });
    const request: RunRequest = {
      machineId: machine.id,
      incarnation: Number(incarnation),
      ...need,
      cpuTemplate: cpuTemplateOf(spec.cpuTemplate),
      hugepages: spec.hugepages,
      ...kernel,
      squashfsPath: image.squashfsPath,
      process: buildProcess(spec, image.config),
      hostname: spec.hostname,
    };
    return await host.work.run(signal, () => host.driver.start(request, signal));
  } catch (error) {
    if (signal.aborted) throw abortReason(signal);
    const failure = LvError.from(error);
    machine.update({
      ...fresh,
      state: MachineState.FAILED,
      reason: failure.reason,
      message: oneLine(failure.message),
      stoppedAtMs: BigInt(host.clock.now()),
    });
    throw error;
  }
}

/** Throws CONFIG_INVALID for one that only a newer agent knows. */
function cpuTemplateOf(name: string): CpuTemplate {
  const found = CPU_TEMPLATES.find((template) => template === (name || "host"));
  if (found === undefined)
    throw new LvError("CONFIG_INVALID", `This host knows no CPU template "${name}"`);
  return found;
}

/** Returns when the run is past booting; on abort the run is killed first. */
async function waitForBoot(
  machine: MachineHandle,
  run: MachineRun,
  signal: AbortSignal,
): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<"up" | "aborted">();
  const look = (): void => {
    if (run.status.phase !== "booting") resolve("up");
  };
  const onAbort = (): void => resolve("aborted");
  const unsubscribe = run.subscribe(look);
  signal.addEventListener("abort", onAbort, { once: true });
  void run.ended.then(() => resolve("up"));
  look();
  if (signal.aborted) onAbort();
  try {
    if ((await promise) === "up") return assertHealthy(machine);
  } finally {
    unsubscribe();
    signal.removeEventListener("abort", onAbort);
  }
  throw abortReason(signal);
}

function assertHealthy(machine: MachineHandle): void {
  const { state, reason, message } = machine.status;
  if (state !== MachineState.FAILED) return;
  throw new LvError(isReason(reason) ? reason : "VMM_FAULT", message);
}
