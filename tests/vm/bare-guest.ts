/** Runs the guests of native/guests on /dev/kvm, through the shim alone. */
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeBootTables } from "../../agent/vmm/boot.ts";
import { GuestMemory } from "../../agent/vmm/guest-memory.ts";
import { LAYOUT, MIB } from "../../agent/vmm/memory-map.ts";
import { bootRegs, bootSregs } from "../../agent/vmm/vcpu-state.ts";
import { Vm, type VmEvent } from "../../native/ffi.ts";

const GUESTS = join(import.meta.dir, "../../native/out/guests");
const ENTRY = 0x100000;
const EVENTS_MAX = 16;
export const SERIAL_LIMIT_BYTES = 1_000;

/** "" when guests can run here. */
export function whyNoKvm(): string {
  try {
    Vm.probe();
    return existsSync(GUESTS) ? "" : `${GUESTS} is missing; run "bun run build"`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

export type Outcome = { events: VmEvent[]; memory: GuestMemory; serial: string; vm: Vm };

export type GuestOptions = {
  /** The value on the debug port that ends the run. */
  last?: number;
  memoryBytes?: number;
  /** Of the first device's registers. */
  deviceBase?: number;
  prepare?: (memory: GuestMemory) => void;
  /** Adds devices. */
  equip?: (vm: Vm) => void;
};

const isOver = (event: VmEvent | undefined, last: number | undefined): boolean =>
  event !== undefined &&
  event.kind !== "device_failed" &&
  (event.kind !== "debug" || event.value === last);

/** Runs a guest until an event that ends it: not debug, or debug of `last`. */
export async function runGuest(
  name: string,
  options: GuestOptions,
  inspect: (outcome: Outcome) => void,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "leveret-guest-"));
  const serialPath = join(directory, "serial");
  const serialFd = openSync(serialPath, "w");
  const vm = Vm.create({
    vcpus: 1,
    memoryBytes: options.memoryBytes ?? 16 * MIB,
    lowLimit: LAYOUT.lowLimit,
    highBase: LAYOUT.highBase,
    deviceBase: options.deviceBase ?? LAYOUT.virtioBase,
    power: { port: 0x600, powerOff: 0x34, reset: 1 },
    debugPort: 0xf4,
  });
  try {
    const memory = new GuestMemory(vm.regions);
    memory.write(ENTRY, readFileSync(join(GUESTS, `${name}.bin`)));
    writeBootTables(memory);
    options.prepare?.(memory);
    vm.addSerial({ port: 0x3f8, gsi: 4, outFd: serialFd, outLimit: SERIAL_LIMIT_BYTES });
    options.equip?.(vm);
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
    rmSync(directory, { recursive: true });
  }
}

export const kinds = (events: readonly VmEvent[]): string[] =>
  events.map((event) => (event.kind === "debug" ? `debug ${event.value}` : event.kind));
