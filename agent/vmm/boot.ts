/**
 * The Linux 64-bit boot protocol: what lies in memory when the first instruction
 * runs. The zero page, command line, entropy seed, boot GDT and page tables.
 * Source: Documentation/arch/x86/boot.rst, arch/x86/include/uapi/asm/bootparam.h.
 */
import { VMM_EXIT } from "../../proto/vmm.ts";
import { VmmError } from "./errors.ts";
import type { GuestMemory } from "./guest-memory.ts";
import type { KernelPlan } from "./kernel-image.ts";
import { alignDown, e820, LAYOUT, PAGE_BYTES, ramRanges, type Range } from "./memory-map.ts";

/**
 * Every character to ttyS0 is two exits to user space, hence `quiet` and a single
 * UART; with a console of the spec's own, none of ours and no UART driver at all. The clock source is
 * kvm-clock so that a restored machine's time can move on. No `nomodule`: stock
 * kernels have their virtio drivers as modules.
 */
const BASE_COMMAND_LINE =
  "quiet reboot=a panic=-1 pci=off cryptomgr.notests random.trust_cpu=on " +
  "no_timer_check clocksource=kvm-clock rdinit=/init";
const SERIAL_CONSOLE = "console=ttyS0 8250.nr_uarts=1";

const ZERO_PAGE = {
  acpiRsdp: 0x070,
  extRamdiskImage: 0x0c0,
  extRamdiskSize: 0x0c4,
  extCommandLine: 0x0c8,
  e820Entries: 0x1e8,
  setupHeader: 0x1f1,
  bootFlag: 0x1fe,
  headerMagic: 0x202,
  loaderType: 0x210,
  loadFlags: 0x211,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  commandLine: 0x228,
  kernelAlignment: 0x230,
  commandLineMax: 0x238,
  setupData: 0x250,
  e820Table: 0x2d0,
} as const;
const E820_ENTRY_BYTES = 20;
const SETUP_RNG_SEED = 9;
const LOADED_HIGH = 1;
const LOADER_UNDEFINED = 0xff;

function consoleArguments(kernelArgs: string): string {
  if (!/(^|\s)console=/.test(kernelArgs)) return SERIAL_CONSOLE;
  return /(^|\s)console=ttyS/.test(kernelArgs) ? "8250.nr_uarts=1" : "8250.nr_uarts=0";
}

/** Throws VmmError when it does not fit the kernel's own limit. */
export function commandLine(kernelArgs: string, extra: readonly string[], maxLength: number) {
  const console = consoleArguments(kernelArgs);
  const line = [console, BASE_COMMAND_LINE, ...extra, kernelArgs.trim()]
    .filter((it) => it !== "")
    .join(" ");
  if (line.length > maxLength)
    throw new VmmError(
      "CONFIG_INVALID",
      VMM_EXIT.specInvalid,
      `The kernel command line is ${line.length} characters long; this kernel takes ${maxLength}`,
    );
  return line;
}

/**
 * The initrd's place: page aligned, as high as low RAM and the kernel allow.
 * Throws VmmError when kernel and initrd do not fit the memory.
 */
export function placeInitrd(plan: KernelPlan, memoryBytes: number, initrdBytes: number): Range {
  const low = ramRanges(memoryBytes)[0];
  const lowEnd = low === undefined ? 0 : low.start + low.bytes;
  const top = Math.min(lowEnd, plan.initrdMax + 1);
  const start = alignDown(top - initrdBytes, PAGE_BYTES);
  if (plan.end > lowEnd || start < plan.end)
    throw new VmmError(
      "CONFIG_INVALID",
      VMM_EXIT.specInvalid,
      `${Math.floor(memoryBytes / 2 ** 20)} MiB of memory are too small for this kernel and ` +
        `initrd: they need ${Math.ceil((plan.end + initrdBytes + PAGE_BYTES) / 2 ** 20)} MiB`,
    );
  return { start, bytes: initrdBytes };
}

export type BootParameters = {
  plan: KernelPlan;
  memoryBytes: number;
  commandLine: string;
  initrd: Range | null;
  /** Credited to the guest's entropy pool at once (SETUP_RNG_SEED, Linux ≥ 6.0). */
  seed: Uint8Array;
};

/** What only the machine itself knows; its tables are the same for all. */
export function writeBootParameters(memory: GuestMemory, boot: BootParameters): void {
  memory.write(LAYOUT.zeroPage, zeroPage(boot));
  memory.write(LAYOUT.commandLine, new TextEncoder().encode(`${boot.commandLine}\0`));
  memory.write(LAYOUT.setupData, seedNode(boot.seed));
}

/** Exported for its test. */
export function zeroPage(boot: BootParameters): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  const view = new DataView(page.buffer);
  page.set(boot.plan.setupHeader, ZERO_PAGE.setupHeader);
  view.setUint16(ZERO_PAGE.bootFlag, 0xaa55, true);
  view.setUint32(ZERO_PAGE.headerMagic, 0x53726448, true);
  view.setUint8(ZERO_PAGE.loaderType, LOADER_UNDEFINED);
  view.setUint8(ZERO_PAGE.loadFlags, view.getUint8(ZERO_PAGE.loadFlags) | LOADED_HIGH);
  if (boot.plan.format === "elf") view.setUint32(ZERO_PAGE.kernelAlignment, 0x1000000, true);
  view.setBigUint64(ZERO_PAGE.acpiRsdp, BigInt(LAYOUT.rsdp), true);
  view.setUint32(ZERO_PAGE.commandLine, LAYOUT.commandLine, true);
  view.setUint32(ZERO_PAGE.commandLineMax, boot.commandLine.length, true);
  view.setBigUint64(ZERO_PAGE.setupData, BigInt(LAYOUT.setupData), true);
  if (boot.initrd !== null) {
    view.setUint32(ZERO_PAGE.ramdiskImage, boot.initrd.start, true);
    view.setUint32(ZERO_PAGE.ramdiskSize, boot.initrd.bytes, true);
  }
  const entries = e820(boot.memoryBytes);
  view.setUint8(ZERO_PAGE.e820Entries, entries.length);
  entries.forEach((entry, i) => {
    const at = ZERO_PAGE.e820Table + i * E820_ENTRY_BYTES;
    view.setBigUint64(at, BigInt(entry.start), true);
    view.setBigUint64(at + 8, BigInt(entry.bytes), true);
    view.setUint32(at + 16, entry.type, true);
  });
  return page;
}

function seedNode(seed: Uint8Array): Uint8Array {
  const node = new Uint8Array(16 + seed.length);
  const view = new DataView(node.buffer);
  view.setUint32(8, SETUP_RNG_SEED, true);
  view.setUint32(12, seed.length, true);
  node.set(seed, 16);
  return node;
}

/** Flat 64-bit GDT (null, code, data, TSS), empty IDT, 1 GiB identity map in 2 MiB pages. */
export function writeBootTables(memory: GuestMemory): void {
  const gdt = new DataView(new ArrayBuffer(32));
  gdt.setBigUint64(8, descriptor(0xa09b), true);
  gdt.setBigUint64(16, descriptor(0xc093), true);
  gdt.setBigUint64(24, descriptor(0x808b), true);
  memory.write(LAYOUT.gdt, new Uint8Array(gdt.buffer));
  memory.write(LAYOUT.idt, new Uint8Array(8));
  const present = 0x3; // present, writable
  const entry = (value: number): Uint8Array => {
    const bytes = new DataView(new ArrayBuffer(8));
    bytes.setBigUint64(0, BigInt(value), true);
    return new Uint8Array(bytes.buffer);
  };
  memory.write(LAYOUT.pml4, entry(LAYOUT.pdpt | present));
  memory.write(LAYOUT.pdpt, entry(LAYOUT.pageDirectory | present));
  const directory = new DataView(new ArrayBuffer(PAGE_BYTES));
  const large = 0x83;
  // Below 4 GiB: the upper halves stay zero.
  for (let i = 0; i < 512; i += 1) directory.setUint32(i * 8, i * 0x200000 + large, true);
  memory.write(LAYOUT.pageDirectory, new Uint8Array(directory.buffer));
}

/** A descriptor with base 0 and limit 0xfffff; flags as in the table of Intel SDM 3A 3.4.5. */
function descriptor(flags: number): bigint {
  return (BigInt(flags & 0xf000) << 40n) | (0xfn << 48n) | (BigInt(flags & 0xff) << 40n) | 0xffffn;
}
