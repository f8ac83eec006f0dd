/**
 * Stop: the image's process gets its signal and, after the timeout, the machine is
 * killed. Done when the VMM process is gone. A newer stop or destroy aborts the wait.
 */
import { abortReason } from "../../../lib/clock.ts";
import { MachineState, type Op, type StopMachine } from "../../../proto/gen/leveret/v1/agent_pb.js";
import { LIMITS } from "../../../lib/limits.ts";
import type { MachineRun } from "../driver.ts";
import { isResting } from "./status.ts";
import type { HostServices, MachineHandle } from "./types.ts";

/** The VMM keeps the timeout itself; this is for one that does not. */
const GRACE_MS = 10_000;

export async function stopMachine(
  host: HostServices,
  machine: MachineHandle,
  op: Op,
  command: StopMachine,
  signal: AbortSignal,
): Promise<void> {
  const { run } = machine;
  if (run === null) {
    // Never begun here, or begun and superseded before there was a process.
    const { state } = machine.status;
    const resting = isResting(state) && state !== MachineState.UNSPECIFIED;
    machine.update({
      generation: op.generation,
      ...(resting ? {} : { state: MachineState.STOPPED, stoppedAtMs: BigInt(host.clock.now()) }),
    });
    return;
  }
  machine.update({ generation: op.generation, state: MachineState.STOPPING });
  const timeoutMs = Math.min(command.timeoutMs, LIMITS.stopTimeoutMaxMs);
  await stopRun(run, command.signal, timeoutMs, signal);
}

/** Rejects with the signal's reason when it aborts; the run then goes on stopping. */
export async function stopRun(
  run: MachineRun,
  signalNumber: number,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(abortReason(signal));
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  const deadline = setTimeout(() => void run.kill(), timeoutMs + GRACE_MS);
  try {
    // A VMM that cannot be asked any more is killed.
    const asked = run.stop(signalNumber, timeoutMs).catch(() => run.kill());
    await Promise.race([asked, aborted]);
    await Promise.race([run.ended, aborted]);
  } finally {
    clearTimeout(deadline);
    signal.removeEventListener("abort", onAbort);
  }
}
