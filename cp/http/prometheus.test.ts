import { expect, test } from "bun:test";
import type { MachineMetrics } from "../../proto/rest.ts";
import { prometheusText } from "./prometheus.ts";

const device = {
  name: "blk0",
  notifications: 1,
  interrupts: 2,
  requests: 3,
  bytes_in: 4,
  bytes_out: 5,
  throttled: 6,
  malformed: 7,
  dropped: 8,
  errors: 9,
};
const metrics: MachineMetrics = {
  instance_id: "mch_1.2",
  time: 0,
  cpu_us: 1_500_000,
  resident_bytes: 4_096,
  balloon: null,
  vcpus: [{ exits_pio: 1, exits_mmio: 2, exits_interrupt: 3, exits_other: 4 }],
  devices: [device, { ...device, name: "blk1", requests: 0 }],
};

test("every family has its help and type once, and a line for each series", () => {
  const text = prometheusText({ id: "mch_1", name: "web" }, metrics);
  const lines = text.split("\n");
  const own = 'machine="mch_1",name="web"';
  expect(lines).toContain("# TYPE leveret_machine_cpu_seconds_total counter");
  expect(lines).toContain(`leveret_machine_cpu_seconds_total{${own}} 1.5`);
  expect(lines).toContain(`leveret_machine_exits_total{${own},vcpu="0",reason="mmio"} 2`);
  expect(lines).toContain(`leveret_machine_device_requests_total{${own},device="blk0"} 3`);
  expect(lines).toContain(`leveret_machine_device_requests_total{${own},device="blk1"} 0`);
  expect(text).not.toContain("balloon");
  const types = lines.filter((line) => line.startsWith("# TYPE"));
  expect(new Set(types).size).toBe(types.length);
  const sample = /^[a-z_]+\{([a-z]+="[^"\n]*",?)+\} [0-9.e+]+$/;
  for (const line of lines.filter((it) => it !== "" && !it.startsWith("#")))
    expect(line).toMatch(sample);
  expect(text).toEndWith("\n");
});

test("a name can break out of no label", () => {
  const text = prometheusText({ id: "mch_1", name: 'a"\\b\nc' }, metrics);
  expect(text).toContain('name="a\\"\\\\b\\nc"}');
  expect(text.split("\n").filter((line) => line.startsWith("c"))).toEqual([]);
});
