import { expect, test } from "bun:test";
import {
  commandLine,
  placeInitrd,
  writeBootParameters,
  writeBootTables,
  zeroPage,
} from "./boot.ts";
import { GuestMemory } from "./guest-memory.ts";
import type { KernelPlan } from "./kernel-image.ts";
import { GIB, LAYOUT, MIB } from "./memory-map.ts";
import { bootFpu, bootLapic, bootMsrs, bootRegs, bootSregs } from "./vcpu-state.ts";

const plan: KernelPlan = {
  format: "elf",
  segments: [],
  entry: 0x1000000,
  end: 0x3000000,
  setupHeader: new Uint8Array(0),
  initrdMax: 0x7fffffff,
  commandLineMax: 2047,
};

test("the initrd lies page aligned below low RAM and the kernel's own limit", () => {
  expect(placeInitrd(plan, 128 * MIB, 5000)).toEqual({ start: 128 * MIB - 8192, bytes: 5000 });
  expect(placeInitrd(plan, 8 * GIB, 4096).start).toBe(2 * GIB - 4096);
  expect(placeInitrd({ ...plan, initrdMax: 0xffffffff }, 8 * GIB, 4096).start).toBe(3 * GIB - 4096);
});

test("a kernel and initrd that do not fit the memory are refused with the need", () => {
  const message = "64 MiB of memory are too small for this kernel and initrd: they need 69 MiB";
  expect(() => placeInitrd(plan, 64 * MIB, 20 * MIB)).toThrow(message);
  expect(() => placeInitrd(plan, 32 * MIB, 0)).toThrow("too small");
});

test("the command line carries the machine's own arguments last and is bounded", () => {
  expect(commandLine("a=b  ", [], 2047)).toEndWith(" rdinit=/init a=b");
  expect(() => commandLine("x".repeat(2000), [], 2047)).toThrow("this kernel takes 2047");
});

test("a console of the machine's own takes the place of the serial one", () => {
  const first = (kernelArgs: string): string[] => commandLine(kernelArgs, [], 2047).split(" ");
  expect(first("").slice(0, 2)).toEqual(["console=ttyS0", "8250.nr_uarts=1"]);
  expect(first("console=hvc0")).not.toContain("console=ttyS0");
  expect(first("a=b console=hvc0")[0]).toBe("8250.nr_uarts=0");
  expect(first("console=hvc0 console=ttyS0,115200")[0]).toBe("8250.nr_uarts=1");
  expect(first("netconsole=x")[0]).toBe("console=ttyS0");
});

test("the zero page has what boot.rst asks for", () => {
  const page = zeroPage({
    plan,
    memoryBytes: 4 * GIB,
    commandLine: "console",
    initrd: { start: 0x7000000, bytes: 0x1234 },
    seed: new Uint8Array(64),
  });
  const view = new DataView(page.buffer);
  expect(view.getUint16(0x1fe, true)).toBe(0xaa55);
  expect(view.getUint32(0x202, true)).toBe(0x53726448);
  expect(view.getUint8(0x1ef)).toBe(0); // sentinel
  expect(view.getUint8(0x210)).toBe(0xff);
  expect(view.getBigUint64(0x70, true)).toBe(0xe0000n);
  expect(view.getUint32(0x218, true)).toBe(0x7000000);
  expect(view.getUint32(0x21c, true)).toBe(0x1234);
  expect(view.getUint32(0x228, true)).toBe(0x20000);
  expect(view.getUint8(0x1e8)).toBe(4);
  const last = 0x2d0 + 3 * 20;
  expect(view.getBigUint64(last, true)).toBe(BigInt(4 * GIB));
  expect(view.getBigUint64(last + 8, true)).toBe(BigInt(GIB));
  expect(view.getUint32(last + 16, true)).toBe(1);
});

test("the boot tables and the seed are where the registers and the zero page say", () => {
  const view = new ArrayBuffer(2 * MIB);
  const memory = new GuestMemory([{ gpa: 0, len: 2 * MIB, view }]);
  const seed = crypto.getRandomValues(new Uint8Array(64));
  writeBootTables(memory);
  writeBootParameters(memory, {
    plan,
    memoryBytes: 64 * MIB,
    commandLine: "ro",
    initrd: null,
    seed,
  });
  const ram = new DataView(view);
  expect(ram.getBigUint64(LAYOUT.gdt + 8, true)).toBe(0x00af9b000000ffffn);
  expect(ram.getBigUint64(LAYOUT.gdt + 16, true)).toBe(0x00cf93000000ffffn);
  expect(ram.getBigUint64(LAYOUT.gdt + 24, true)).toBe(0x008f8b000000ffffn);
  expect(ram.getBigUint64(LAYOUT.pml4, true)).toBe(0xa003n);
  expect(ram.getBigUint64(LAYOUT.pdpt, true)).toBe(0xb003n);
  expect(ram.getBigUint64(LAYOUT.pageDirectory + 8 * 511, true)).toBe(0x3fe00083n);
  expect(ram.getUint32(LAYOUT.setupData + 8, true)).toBe(9);
  expect(ram.getUint32(LAYOUT.setupData + 12, true)).toBe(64);
  expect(new Uint8Array(view, LAYOUT.setupData + 16, 64)).toEqual(seed);
  expect(Buffer.from(view, LAYOUT.commandLine, 3).toString()).toBe("ro\0");
});

test("vCPU state has the sizes and places of linux/kvm.h", () => {
  const regs = new DataView(bootRegs(0x1000123).buffer);
  expect(regs.byteLength).toBe(144);
  expect(regs.getBigUint64(32, true)).toBe(0x7000n);
  expect(regs.getBigUint64(128, true)).toBe(0x1000123n);
  const reset = new Uint8Array(312);
  reset.set([0x10, 0, 0, 0x60], 224);
  const sregs = new DataView(bootSregs(reset).buffer);
  expect(sregs.getBigUint64(224, true)).toBe(0xe0000011n);
  expect(sregs.getUint16(12, true)).toBe(8);
  expect(sregs.getUint8(14)).toBe(0xb);
  expect(sregs.getUint8(19)).toBe(1); // cs.l
  expect(sregs.getUint16(6 * 24 + 12, true)).toBe(24);
  expect(bootFpu().length).toBe(416);
  expect(new DataView(bootLapic(new Uint8Array(1024)).buffer).getUint32(0x350, true)).toBe(0x700);
  expect(bootMsrs().length % 16).toBe(0);
});
