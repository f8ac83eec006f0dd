/** Destroy: kills what runs and removes everything of the machine. Safe twice. */
import { MachineState, type Op } from "../../../proto/gen/leveret/v1/agent_pb.js";
import type { HostServices, MachineHandle } from "./types.ts";

export async function destroyMachine(
  host: HostServices,
  machine: MachineHandle,
  op: Op,
): Promise<void> {
  if (machine.status.state === MachineState.DESTROYED) return;
  const { run } = machine;
  if (run !== null) {
    machine.update({ generation: op.generation, state: MachineState.STOPPING });
    await run.kill();
    await run.ended;
  }
  await host.driver.destroy(machine.id);
  machine.update({
    generation:
      op.generation > machine.status.generation ? op.generation : machine.status.generation,
    state: MachineState.DESTROYED,
    cpus: 0,
    memoryMib: 0n,
    diskMib: 0n,
  });
}
