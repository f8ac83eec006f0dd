/** A metrics session: one frame, taken from the running VMM at that moment. */
import { create } from "@bufbuild/protobuf";
import { LvError } from "../../proto/errors.ts";
import { type MachineMetrics, MachineMetricsSchema } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Fleet } from "../runtime/fleet.ts";

const count = (value: number): bigint => BigInt(Math.trunc(value));

/** Throws MACHINE_NOT_FOUND; STATE_CONFLICT when the machine does not run. */
export async function machineMetrics(
  fleet: Fleet,
  machineId: string,
  now: number,
): Promise<MachineMetrics> {
  const { run } = fleet.get(machineId);
  if (run === null)
    throw new LvError("STATE_CONFLICT", `Machine ${machineId} does not run: it counts nothing`);
  const { vcpus, devices, balloon, cpuUs, residentBytes } = await run.metrics();
  return create(MachineMetricsSchema, {
    incarnation: count(run.incarnation),
    timeMs: count(now),
    cpuUs: count(cpuUs),
    residentBytes: count(residentBytes),
    vcpus: vcpus.map(({ exitsPio, exitsMmio, exitsIntr, exitsOther }) => ({
      exitsPio: count(exitsPio),
      exitsMmio: count(exitsMmio),
      exitsInterrupt: count(exitsIntr),
      exitsOther: count(exitsOther),
    })),
    devices: devices.map((device) => ({
      kind: device.kind,
      notifications: count(device.notifies),
      interrupts: count(device.interrupts),
      requests: count(device.requests),
      bytesIn: count(device.bytesIn),
      bytesOut: count(device.bytesOut),
      throttled: count(device.throttled),
      malformed: count(device.malformed),
      dropped: count(device.dropped),
      errors: count(device.errors),
    })),
    ...(balloon === undefined
      ? {}
      : {
          balloon: {
            targetBytes: count(balloon.target),
            actualBytes: count(balloon.actual),
            freeBytes: count(balloon.free),
            availableBytes: count(balloon.available),
          },
        }),
  });
}
