/** A host's MachineMetrics as the control plane has it. Total: what is out of range is cut. */
import type { MachineMetrics } from "../../proto/gen/leveret/v1/agent_pb.js";
import { LIMITS } from "../../lib/limits.ts";
import type { Reading } from "../ops/machine-metrics.ts";

/** A host is not trusted to be brief. */
const DEVICES_MAX = 32;

function counter(value: bigint): number {
  return Number(value > BigInt(Number.MAX_SAFE_INTEGER) ? BigInt(Number.MAX_SAFE_INTEGER) : value);
}

export function readingFromWire(wire: MachineMetrics): Reading {
  const { balloon } = wire;
  const seen = new Map<string, number>();
  return {
    incarnation: counter(wire.incarnation),
    time: counter(wire.timeMs),
    cpu_us: counter(wire.cpuUs),
    resident_bytes: counter(wire.residentBytes),
    balloon:
      balloon === undefined
        ? null
        : {
            target_bytes: counter(balloon.targetBytes),
            actual_bytes: counter(balloon.actualBytes),
            free_bytes: counter(balloon.freeBytes),
            available_bytes: counter(balloon.availableBytes),
          },
    vcpus: wire.vcpus.slice(0, LIMITS.cpusMax).map((vcpu) => ({
      exits_pio: counter(vcpu.exitsPio),
      exits_mmio: counter(vcpu.exitsMmio),
      exits_interrupt: counter(vcpu.exitsInterrupt),
      exits_other: counter(vcpu.exitsOther),
    })),
    devices: wire.devices.slice(0, DEVICES_MAX).map((device) => {
      const kind = device.kind.replaceAll(/[^a-z0-9]/g, "").slice(0, 16);
      const number = seen.get(kind) ?? 0;
      seen.set(kind, number + 1);
      return {
        name: `${kind}${number}`,
        notifications: counter(device.notifications),
        interrupts: counter(device.interrupts),
        requests: counter(device.requests),
        bytes_in: counter(device.bytesIn),
        bytes_out: counter(device.bytesOut),
        throttled: counter(device.throttled),
        malformed: counter(device.malformed),
        dropped: counter(device.dropped),
        errors: counter(device.errors),
      };
    }),
  };
}
