/**
 * Guest-physical addresses. Everything below 1 MiB that the VMM fills before the
 * first instruction, the MMIO gap, and what the guest is told about it (e820).
 */
export const PAGE_BYTES = 4_096;
export const MIB = 1 << 20;
export const GIB = 2 ** 30;

export const LAYOUT = {
  gdt: 0x500,
  idt: 0x520,
  zeroPage: 0x7000,
  stackTop: 0x8ff0,
  pml4: 0x9000,
  pdpt: 0xa000,
  pageDirectory: 0xb000,
  setupData: 0x1f000,
  commandLine: 0x20000,
  /** The last KiB of base memory, where every kernel looks for it early. */
  mpTable: 0x9fc00,
  acpiTables: 0xa0000,
  /** 16 bytes, as VMGenID wants it: 8-byte aligned, in reserved memory. */
  generationId: 0xdff00,
  /** Scanned by every kernel, given in the zero page besides. */
  rsdp: 0xe0000,
  highMemory: 0x100000,
  /** RAM ends here and goes on at `highBase`. */
  lowLimit: 3 * GIB,
  highBase: 4 * GIB,
  /** The page below it stays free for a boot timer. */
  virtioBase: 0xc0001000,
  ioApic: 0xfec00000,
  localApic: 0xfee00000,
} as const;

export type Range = { start: number; bytes: number };

/** RAM in order: one range up to 3 GiB, a second one from 4 GiB on. */
export function ramRanges(memoryBytes: number): Range[] {
  const low = { start: 0, bytes: Math.min(memoryBytes, LAYOUT.lowLimit) };
  return memoryBytes <= LAYOUT.lowLimit
    ? [low]
    : [low, { start: LAYOUT.highBase, bytes: memoryBytes - LAYOUT.lowLimit }];
}

export const E820_RAM = 1;
export const E820_RESERVED = 2;
export type E820Entry = Range & { type: number };

/** The tables lie in the reserved range; 0xe0000..0xfffff is simply absent. */
export function e820(memoryBytes: number): E820Entry[] {
  const entries: E820Entry[] = [
    { start: 0, bytes: LAYOUT.mpTable, type: E820_RAM },
    { start: LAYOUT.mpTable, bytes: LAYOUT.rsdp - LAYOUT.mpTable, type: E820_RESERVED },
  ];
  for (const range of ramRanges(memoryBytes)) {
    const start = Math.max(range.start, LAYOUT.highMemory);
    const bytes = range.start + range.bytes - start;
    if (bytes > 0) entries.push({ start, bytes, type: E820_RAM });
  }
  return entries;
}

export const alignDown = (value: number, to: number): number => value - (value % to);
