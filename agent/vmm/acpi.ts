/**
 * ACPI tables: what makes a stock kernel find its CPUs, virtio devices, serial port
 * and power switch, without PCI and without probing legacy hardware. Hardware-reduced
 * ACPI (6.5, 4.1): no PM timer, no SCI, no PIT needed. Devices are edge-triggered.
 */
import * as aml from "./aml.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { LAYOUT } from "./memory-map.ts";

export const POWER_PORT = 0x600;
/** What the guest writes to the port: SLP_EN | 5 << 2 for S5, and the reset value. */
export const POWER_OFF_VALUE = 0x34;
export const RESET_VALUE = 1;
export const SERIAL_PORT = 0x3f8;
export const SERIAL_GSI = 4;
/** Of the generic event device, which tells its events apart by them; virtio devices end at 20. */
export const EVENT_GSI = 22;
export const BUTTON_GSI = 23;
export const VIRTIO_MMIO_BYTES = 0x1000;

export type VirtioSlot = { base: number; gsi: number };

const HEADER_BYTES = 36;
const FADT_BYTES = 276;
const RSDP_BYTES = 36;
const OEM = "LEVRET";
const OEM_TABLE = "LEVERET ";

const FADT_WBINVD = 1 << 0;
const FADT_NO_FIXED_BUTTONS = (1 << 4) | (1 << 5);
const FADT_RESET_REGISTER = 1 << 10;
const FADT_HW_REDUCED = 1 << 20;
/** No VGA, no CMOS clock; bit 1 (8042 present) stays clear, so that Linux probes none. */
const BOOT_NO_VGA_NO_RTC = (1 << 2) | (1 << 5);

const encoder = new TextEncoder();

function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 1) sum += bytes[i] ?? 0;
  return -sum & 0xff;
}

/** A system description table: 5.2.6. */
function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES + body.length);
  const view = new DataView(bytes.buffer);
  bytes.set(encoder.encode(signature), 0);
  view.setUint32(4, bytes.length, true);
  bytes[8] = revision;
  bytes.set(encoder.encode(OEM), 10);
  bytes.set(encoder.encode(OEM_TABLE), 16);
  view.setUint32(24, 1, true);
  bytes.set(encoder.encode("LVRT"), 28);
  view.setUint32(32, 1, true);
  bytes.set(body, HEADER_BYTES);
  bytes[9] = checksum(bytes);
  return bytes;
}

/** Devices in the order given: the first block device becomes /dev/vda. */
export function dsdt(slots: readonly VirtioSlot[]): Uint8Array {
  const virtio = slots.map((slot, i) =>
    aml.device(
      `V${i.toString().padStart(3, "0")}`,
      aml.named("_HID", aml.string("LNRO0005")),
      aml.named("_UID", aml.integer(i)),
      aml.named("_CCA", aml.integer(1)),
      aml.named(
        "_CRS",
        aml.resources(aml.memory32(slot.base, VIRTIO_MMIO_BYTES), aml.edgeInterrupt(slot.gsi)),
      ),
    ),
  );
  const serial = aml.device(
    "COM1",
    aml.named("_HID", aml.eisaId("PNP0501")),
    aml.named("_UID", aml.integer(0)),
    aml.named("_CRS", aml.resources(aml.edgeInterrupt(SERIAL_GSI), aml.ioPorts(SERIAL_PORT, 8))),
  );
  // Its number changes when the machine is a copy; the event device says when to look.
  const generation = aml.device(
    "VGEN",
    aml.named("_HID", aml.string("LVRT0001")),
    aml.named("_CID", aml.string("VM_Gen_Counter")),
    aml.named("_DDN", aml.string("VM_Gen_Counter")),
    aml.named("ADDR", aml.list(aml.integer(LAYOUT.generationId), aml.integer(0))),
  );
  // Pressed, it asks the guest to switch itself off: 4.8.3.1.1.
  const button = aml.device(
    "PWRB",
    aml.named("_HID", aml.eisaId("PNP0C0C")),
    aml.named("_UID", aml.integer(0)),
  );
  const interrupts = [aml.edgeInterrupt(EVENT_GSI), aml.edgeInterrupt(BUTTON_GSI)];
  const events = aml.device(
    "GED0",
    aml.named("_HID", aml.string("ACPI0013")),
    aml.named("_UID", aml.integer(0)),
    aml.named("_CRS", aml.resources(...interrupts)),
    aml.method1(
      "_EVT",
      aml.whenArgument(EVENT_GSI, aml.notify("VGEN", 0x80)),
      aml.whenArgument(BUTTON_GSI, aml.notify("PWRB", 0x80)),
    ),
  );
  const five = aml.integer(5);
  const powerOff = aml.named("_S5_", aml.list(five, five, aml.integer(0), aml.integer(0)));
  return table(
    "DSDT",
    2,
    aml.join(aml.scope("\\_SB_", serial, ...virtio, generation, button, events), powerOff),
  );
}

export function fadt(dsdtAddress: number): Uint8Array {
  const body = new Uint8Array(FADT_BYTES - HEADER_BYTES);
  const view = new DataView(body.buffer);
  const at = (offset: number): number => offset - HEADER_BYTES;
  /** Generic address structure of one byte of I/O space: 5.2.3.2. */
  const port = (offset: number): void => {
    body.set([1, 8, 0, 1], at(offset));
    view.setBigUint64(at(offset) + 4, BigInt(POWER_PORT), true);
  };
  view.setUint16(at(109), BOOT_NO_VGA_NO_RTC, true);
  const flags = FADT_WBINVD | FADT_NO_FIXED_BUTTONS | FADT_RESET_REGISTER | FADT_HW_REDUCED;
  view.setUint32(at(112), flags, true);
  port(116); // RESET_REG
  body[at(128)] = RESET_VALUE;
  body[at(131)] = 5; // minor version
  view.setBigUint64(at(140), BigInt(dsdtAddress), true);
  port(244); // SLEEP_CONTROL_REG
  port(256); // SLEEP_STATUS_REG
  body.set(encoder.encode("LEVERET\0"), at(268));
  return table("FACP", 6, body);
}

/** One local APIC per vCPU (APIC id = index) and the I/O APIC. */
export function madt(cpus: number): Uint8Array {
  const body = new Uint8Array(8 + 12 + cpus * 8);
  const view = new DataView(body.buffer);
  view.setUint32(0, LAYOUT.localApic, true);
  body.set([1, 12, 0, 0], 8);
  view.setUint32(12, LAYOUT.ioApic, true);
  for (let cpu = 0; cpu < cpus; cpu += 1) body.set([0, 8, cpu, cpu, 1], 20 + cpu * 8);
  return table("APIC", 6, body);
}

export function xsdt(tables: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(tables.length * 8));
  tables.forEach((address, i) => view.setBigUint64(i * 8, BigInt(address), true));
  return table("XSDT", 1, new Uint8Array(view.buffer));
}

export function rsdp(xsdtAddress: number): Uint8Array {
  const bytes = new Uint8Array(RSDP_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(encoder.encode("RSD PTR "), 0);
  bytes.set(encoder.encode(OEM), 9);
  bytes[15] = 2;
  view.setUint32(20, RSDP_BYTES, true);
  view.setBigUint64(24, BigInt(xsdtAddress), true);
  bytes[8] = checksum(bytes.subarray(0, 20));
  bytes[32] = checksum(bytes);
  return bytes;
}

/** All tables, as they lie in memory; they say nothing but how many of each there are. */
export type Acpi = { tables: Uint8Array; rsdp: Uint8Array };

/** They end below the generation id for any 32 CPUs and 16 devices. */
export function makeAcpi(cpus: number, slots: readonly VirtioSlot[]): Acpi {
  const tables: Uint8Array[] = [];
  let at: number = LAYOUT.acpiTables;
  const place = (bytes: Uint8Array): number => {
    const address = at;
    const gap = -bytes.length & 15;
    tables.push(bytes, new Uint8Array(gap));
    at += bytes.length + gap;
    if (at > LAYOUT.generationId) throw new RangeError("The ACPI tables do not fit");
    return address;
  };
  const facp = place(fadt(place(dsdt(slots))));
  const root = rsdp(place(xsdt([facp, place(madt(cpus))])));
  return { tables: aml.join(...tables), rsdp: root };
}

export function writeAcpi(memory: GuestMemory, { tables, rsdp: root }: Acpi): void {
  memory.write(LAYOUT.acpiTables, tables);
  memory.write(LAYOUT.rsdp, root);
}
