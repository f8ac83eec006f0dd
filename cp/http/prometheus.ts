/**
 * One machine's metrics in Prometheus' text format (version 0.0.4). The series are those
 * of the machine that was asked for: at most 32 vCPUs and 32 devices, and no more
 * machines than the scraper names, which it may only within its project.
 */
import type { MachineMetrics } from "../../proto/rest.ts";

type Labels = Record<string, string>;
type Sample = { labels: Labels; value: number };
type Type = "counter" | "gauge";

/** Of a label's value: only these three have to be escaped. */
const escape = (text: string): string =>
  text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");

function family(name: string, type: Type, help: string, samples: readonly Sample[]): string {
  if (samples.length === 0) return "";
  const lines = samples.map(({ labels, value }) => {
    const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escape(text)}"`);
    return `${name}{${pairs.join(",")}} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

const EXITS = {
  pio: "exits_pio",
  mmio: "exits_mmio",
  interrupt: "exits_interrupt",
  other: "exits_other",
} as const;

const DEVICE = {
  notifications: "Notifications by the guest",
  interrupts: "Interrupts to the guest",
  requests: "Requests",
  bytes_in: "Bytes into the guest",
  bytes_out: "Bytes out of the guest",
  throttled: "Times that a rate limit made a device wait",
  malformed: "Requests that broke the device's rules",
  dropped: "Frames or bytes that nobody took",
  errors: "Failed calls of the host",
} as const;

export function prometheusText(machine: { id: string; name: string }, it: MachineMetrics): string {
  const base: Labels = { machine: machine.id, name: machine.name };
  const own = (value: number): Sample[] => [{ labels: base, value }];
  const prefix = "leveret_machine_";
  const families = [
    family(`${prefix}cpu_seconds_total`, "counter", "Processor time", own(it.cpu_us / 1e6)),
    family(`${prefix}resident_bytes`, "gauge", "Memory of the host", own(it.resident_bytes)),
    ...Object.entries(it.balloon ?? {}).map(([name, value]) =>
      family(`${prefix}balloon_${name}`, "gauge", "Balloon", own(value)),
    ),
    family(
      `${prefix}exits_total`,
      "counter",
      "Exits from the guest by reason",
      it.vcpus.flatMap((vcpu, index) =>
        Object.entries(EXITS).map(([reason, key]) => ({
          labels: { ...base, vcpu: String(index), reason },
          value: vcpu[key],
        })),
      ),
    ),
    ...(Object.keys(DEVICE) as (keyof typeof DEVICE)[]).map((key) =>
      family(
        `${prefix}device_${key}_total`,
        "counter",
        DEVICE[key],
        it.devices.map((device) => ({
          labels: { ...base, device: device.name },
          value: device[key],
        })),
      ),
    ),
  ];
  return families.join("");
}
