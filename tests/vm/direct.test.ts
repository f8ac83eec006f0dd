/**
 * Bare-metal guests on /dev/kvm of any kind, through the shim: exits, memory, the
 * serial port, power and the events they become.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeBootTables } from "../../agent/vmm/boot.ts";
import { GuestMemory } from "../../agent/vmm/guest-memory.ts";
import { GIB, LAYOUT, MIB } from "../../agent/vmm/memory-map.ts";
import { bootRegs, bootSregs } from "../../agent/vmm/vcpu-state.ts";
import { Vm, type VmEvent } from "../../native/ffi.ts";

const GUESTS = join(import.meta.dir, "../../native/out/guests");
const ENTRY = 0x100000;
const EVENTS_MAX = 16;

let directory = "";
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "leveret-direct-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

function whyNot(): string {
  try {
    Vm.probe();
    return existsSync(GUESTS) ? "" : `${GUESTS} is missing; run "bun run build"`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
const reason = whyNot();
if (reason !== "") process.stderr.write(`tests/vm/direct: skipped: ${reason}\n`);
const kvmTest = test.skipIf(reason !== "");

type Outcome = { events: VmEvent[]; memory: GuestMemory; serial: string; vm: Vm };

/** Runs a guest until an event that ends it: not debug, or debug of `last`. */
async function runGuest(
  name: string,
  options: { last?: number; memoryBytes?: number; prepare?: (memory: GuestMemory) => void },
  inspect: (outcome: Outcome) => void,
): Promise<void> {
  const serialPath = join(directory, `${name}.serial`);
  const serialFd = openSync(serialPath, "w");
  const vm = Vm.create({
    vcpus: 1,
    memoryBytes: options.memoryBytes ?? 16 * MIB,
    lowLimit: LAYOUT.lowLimit,
    highBase: LAYOUT.highBase,
    pit: false,
  });
  try {
    const memory = new GuestMemory(vm.regions);
    memory.write(ENTRY, readFileSync(join(GUESTS, `${name}.bin`)));
    writeBootTables(memory);
    options.prepare?.(memory);
    vm.addSerial({ port: 0x3f8, gsi: 4, outFd: serialFd, outLimit: 1000 });
    vm.addPower({ port: 0x600, powerOff: 0x34, reset: 1 });
    vm.addDebug(0xf4);
    vm.setState(0, "regs", bootRegs(ENTRY));
    vm.setState(0, "sregs", bootSregs(vm.getState(0, "sregs")));
    vm.start();
    const events: VmEvent[] = [];
    const reader = Bun.file(vm.eventFd).stream().getReader();
    while (!isOver(events.at(-1), options.last) && events.length < EVENTS_MAX) {
      const event = vm.nextEvent();
      if (event === null) await reader.read();
      else events.push(event);
    }
    // The stream holds a duplicate of the eventfd.
    await reader.cancel();
    vm.stop();
    inspect({ events, memory, vm, serial: readFileSync(serialPath, "utf8") });
  } finally {
    vm.destroy();
    closeSync(serialFd);
  }
}

function isOver(event: VmEvent | undefined, last: number | undefined): boolean {
  return event !== undefined && (event.kind !== "debug" || event.value === last);
}

const kinds = (events: readonly VmEvent[]): string[] =>
  events.map((event) => (event.kind === "debug" ? `debug ${event.value}` : event.kind));

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
