/**
 * Bare-metal guests on /dev/kvm of any kind, through the shim: exits, memory, the
 * serial port, power and the events they become.
 */
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import type { GuestMemory } from "../../agent/vmm/guest-memory.ts";
import { GIB, LAYOUT, MIB } from "../../agent/vmm/memory-map.ts";
import { kinds, runGuest, whyNoKvm } from "./bare-guest.ts";

const reason = whyNoKvm();
if (reason !== "") process.stderr.write(`tests/vm/direct: skipped: ${reason}\n`);
const kvmTest = test.skipIf(reason !== "");

kvmTest("a guest speaks through the debug port and the serial port", async () => {
  await runGuest("hello", { last: 42 }, ({ events, serial, vm }) => {
    expect(kinds(events)).toEqual(["debug 1", "debug 2", "debug 3", "debug 42"]);
    expect(serial).toBe("hello from the guest\n");
    expect(vm.vcpuStats(0).exitsPio).toBeGreaterThanOrEqual(6);
    const times = events.map((event) => event.timeNs);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    expect(times[0]).toBeGreaterThan(0);
  });
});

kvmTest("ports and addresses that nobody decodes read as all ones", async () => {
  await runGuest("unmapped", { last: 1 }, ({ events, vm }) => {
    expect(kinds(events)).toEqual(["debug 1"]);
    expect(vm.vcpuStats(0).exitsMmio).toBeGreaterThanOrEqual(7);
  });
});

kvmTest("a triple fault is a reset", async () => {
  await runGuest("triple-fault", {}, ({ events }) => {
    expect(kinds(events)).toEqual(["debug 1", "reset"]);
  });
});

kvmTest("the ACPI sleep register powers off", async () => {
  await runGuest("power-off", {}, ({ events }) => {
    expect(kinds(events)).toEqual(["debug 1", "power_off"]);
  });
});

/** Identity map of [first, first + count) GiB in 2 MiB pages, tables from 0x10000 on. */
function mapGib(memory: GuestMemory, first: number, count: number): void {
  const entry = (gpa: number, value: number): void => {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, BigInt(value), true);
    memory.write(gpa, new Uint8Array(view.buffer));
  };
  for (let gib = first; gib < first + count; gib += 1) {
    const table = 0x10000 + gib * 0x1000;
    entry(LAYOUT.pdpt + gib * 8, table + 3);
    for (let i = 0; i < 512; i += 1) entry(table + i * 8, gib * GIB + i * 0x200000 + 0x83);
  }
}

for (const [name, start, end] of [
  ["below the 3 GiB hole", 2 * GIB, 3 * GIB],
  ["above 4 GiB", 4 * GIB, 5 * GIB],
] as const)
  kvmTest(`memory ${name} is the same for guest and host`, async () => {
    const prepare = (memory: GuestMemory): void => {
      mapGib(memory, start / GIB, 1);
      memory.write(0x8000, new Uint8Array(BigUint64Array.of(BigInt(start), BigInt(end)).buffer));
    };
    await runGuest("memory", { last: 1, memoryBytes: 4 * GIB, prepare }, ({ events, memory }) => {
      expect(kinds(events)).toEqual(["debug 1"]);
      for (let gpa = start; gpa < end; gpa += 2 * MIB) {
        const [piece] = memory.pieces(gpa, 8);
        expect(Buffer.from(piece ?? []).readBigUInt64LE()).toBe(BigInt(gpa));
      }
    });
  });

kvmTest("a guest that never stops is stopped, and nothing of it is left", async () => {
  const open = (): number => readdirSync("/proc/self/fd").length;
  const threads = (): number => readdirSync("/proc/self/task").length;
  await runGuest("hello", { last: 1 }, () => undefined);
  const before = { open: open(), threads: threads() };
  for (let i = 0; i < 3; i += 1) await runGuest("hello", { last: 1 }, () => undefined);
  expect({ open: open(), threads: threads() }).toEqual(before);
});
