import { expect, test } from "bun:test";
import { parseMetrics, usageOf } from "./metrics.ts";

const vcpu = { exitsPio: 1, exitsMmio: 2, exitsIntr: 3, exitsOther: 4 };
const device = {
  kind: "blk",
  notifies: 1,
  interrupts: 2,
  requests: 3,
  bytesIn: 4,
  bytesOut: 5,
  throttled: 6,
  malformed: 7,
  dropped: 8,
  errors: 9,
};
const balloon = { target: 0, actual: 0, free: 5, available: 6 };
const good = { vcpus: [vcpu, vcpu], devices: [device], balloon };

test("metrics of the contract come through, what is beside them does not", () => {
  expect(parseMetrics({ ...good, more: 1 })).toEqual(good);
  expect(parseMetrics({ vcpus: [{ ...vcpu, x: 1 }], devices: [] })).toEqual({
    vcpus: [vcpu],
    devices: [],
  });
});

test("a VMM whose guest owns it says nothing that is not a bounded list of counters", () => {
  const bad: unknown[] = [
    null,
    [],
    { vcpus: [] },
    { ...good, vcpus: Array.from({ length: 33 }, () => vcpu) },
    { ...good, devices: Array.from({ length: 33 }, () => device) },
    { ...good, vcpus: [{ ...vcpu, exitsPio: -1 }] },
    { ...good, vcpus: [{ ...vcpu, exitsPio: 1.5 }] },
    { ...good, vcpus: [{ ...vcpu, exitsPio: 2 ** 60 }] },
    { ...good, devices: [{ ...device, bytesIn: "4" }] },
    { ...good, devices: [{ ...device, kind: 'x"} 1\n' }] },
    { ...good, balloon: {} },
  ];
  for (const value of bad) expect(parseMetrics(value)).toBeNull();
});

test("the kernel says what a process has used; of one that is gone, nothing", () => {
  const until = performance.now() + 2_000;
  while (usageOf(process.pid).cpuUs === 0 && performance.now() < until) continue;
  const usage = usageOf(process.pid);
  expect(usage.cpuUs).toBeGreaterThan(0);
  expect(usage.residentBytes).toBeGreaterThan(10 * 2 ** 20);
  expect(usageOf(2 ** 22 + 1)).toEqual({ cpuUs: 0, residentBytes: 0 });
});
