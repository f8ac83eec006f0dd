/**
 * Intel MultiProcessor Specification 1.4, chapter 4. ACPI says the same and wins.
 * It is here because a kernel with CONFIG_X86_MPPARSE that finds no "_MP_" maps and
 * unmaps the 64 KiB of BIOS once per 16 bytes: 65,000 page table changes, which take
 * 10 ms of boot on hardware and seconds where they are emulated.
 */
import { LAYOUT } from "./memory-map.ts";

const POINTER_BYTES = 16;
const HEADER_BYTES = 44;
const ISA_IRQS = 16;
const ENABLED = 1;
const BOOT_PROCESSOR = 2;
const LOCAL_APIC_VERSION = 0x14;
const IO_APIC_VERSION = 0x11;
const INTERRUPT = 0;
const NMI = 1;
const EXTERNAL = 3;

const encoder = new TextEncoder();

/** The floating pointer and, right behind it, its table; to be written at `gpa`. */
export function mpTable(gpa: number, cpus: number): Uint8Array {
  const entries: number[][] = [];
  for (let cpu = 0; cpu < cpus; cpu += 1) {
    const flags = cpu === 0 ? ENABLED | BOOT_PROCESSOR : ENABLED;
    entries.push([0, cpu, LOCAL_APIC_VERSION, flags, ...Array.from({ length: 16 }, () => 0)]);
  }
  entries.push([1, 0, ...encoder.encode("ISA   ")]);
  const io = LAYOUT.ioApic;
  entries.push([
    2,
    0,
    IO_APIC_VERSION,
    ENABLED,
    io & 0xff,
    (io >>> 8) & 0xff,
    (io >>> 16) & 0xff,
    io >>> 24,
  ]);
  for (let irq = 0; irq < ISA_IRQS; irq += 1) entries.push([3, INTERRUPT, 0, 0, 0, irq, 0, irq]);
  entries.push([4, EXTERNAL, 0, 0, 0, 0, 0xff, 0], [4, NMI, 0, 0, 0, 0, 0xff, 1]);

  const body = entries.flat();
  const bytes = new Uint8Array(POINTER_BYTES + HEADER_BYTES + body.length);
  const pointer = new DataView(bytes.buffer, 0, POINTER_BYTES);
  bytes.set(encoder.encode("_MP_"), 0);
  pointer.setUint32(4, gpa + POINTER_BYTES, true);
  bytes.set([1, 4], 8);
  const header = new DataView(bytes.buffer, POINTER_BYTES);
  bytes.set(encoder.encode("PCMP"), POINTER_BYTES);
  header.setUint16(4, HEADER_BYTES + body.length, true);
  header.setUint8(6, 4);
  bytes.set(encoder.encode("LEVERET LEVERET     "), POINTER_BYTES + 8);
  header.setUint16(34, entries.length, true);
  header.setUint32(36, LAYOUT.localApic, true);
  bytes.set(body, POINTER_BYTES + HEADER_BYTES);
  header.setUint8(7, checksum(bytes.subarray(POINTER_BYTES)));
  bytes[10] = checksum(bytes.subarray(0, POINTER_BYTES));
  return bytes;
}

const checksum = (bytes: Uint8Array): number => -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
