import type { MachineMetrics } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { exactly, parse, type Command } from "../command.ts";
import { out } from "../output.ts";
import { bytes, duration, table } from "../render.ts";

export const command: Command = {
  summary: "what a running machine has counted",
  help: `usage: lev metrics [--json] MACHINE

  --json  as the API gives it

Processor time, memory, exits of each virtual CPU and the traffic of each device since
the machine's run began. MACHINE is an id, a name or the unique beginning of an id.
A scraper finds the same at /v1/machines/MACHINE/metrics?format=prometheus.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, { json: { type: "boolean" } });
    const [ref = ""] = exactly(positionals, 1, "MACHINE");
    const metrics = await Client.fromEnvironment().metrics(ref);
    await out(values.json === true ? `${JSON.stringify(metrics, null, 2)}\n` : render(metrics));
    return 0;
  },
};

/** Exported for tests. */
export function render(metrics: MachineMetrics): string {
  const { balloon } = metrics;
  const head = [
    ["CPU time", duration(metrics.cpu_us / 1_000)],
    ["memory", bytes(metrics.resident_bytes)],
    ...(balloon === null ? [] : [["balloon", bytes(balloon.actual_bytes)]]),
  ];
  const vcpus = metrics.vcpus.map((vcpu, index) =>
    [index, vcpu.exits_pio, vcpu.exits_mmio, vcpu.exits_interrupt, vcpu.exits_other].map(String),
  );
  const devices = metrics.devices.map((it) => [
    it.name,
    ...[it.requests, it.notifications, it.interrupts].map(String),
    bytes(it.bytes_in),
    bytes(it.bytes_out),
    ...[it.throttled, it.malformed, it.dropped, it.errors].map(String),
  ]);
  const traffic = ["REQUESTS", "NOTIFIED", "INTERRUPTS", "IN", "OUT"];
  return [
    table(metrics.instance_id.split("\n"), []) + table([], head),
    table(["VCPU", "PIO", "MMIO", "INTERRUPTED", "OTHER"], vcpus),
    table(["DEVICE", ...traffic, "THROTTLED", "MALFORMED", "DROPPED", "ERRORS"], devices),
  ].join("\n");
}
