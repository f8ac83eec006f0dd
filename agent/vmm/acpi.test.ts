import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dsdt, fadt, madt, makeAcpi, rsdp, writeAcpi, xsdt } from "./acpi.ts";
import * as aml from "./aml.ts";
import { layoutDevices } from "./devices.ts";
import { GuestMemory } from "./guest-memory.ts";
import { LAYOUT, MIB } from "./memory-map.ts";
import { DISKS_MAX, NETWORKS_MAX } from "./spec.ts";

const network = {
  kind: "tap" as const,
  name: "lv0",
  mac: "02:00:00:00:00:01",
  mtu: 1_500,
  address: "10.0.2.15/24",
  gateway: "10.0.2.2",
};
const disk = { path: "/d", readOnly: true, id: "d" };
const disks = Array.from({ length: DISKS_MAX }, () => disk);
const most = layoutDevices({
  disks,
  networks: Array.from({ length: NETWORKS_MAX }, () => network),
  kernelArgs: "console=hvc0",
});
const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

test("every table's bytes sum to zero and its length is its own", () => {
  for (const table of [dsdt(most), fadt(0x9fc00), madt(32), xsdt([1, 2])]) {
    expect(sum(table)).toBe(0);
    expect(new DataView(table.buffer).getUint32(4, true)).toBe(table.length);
  }
  const pointer = rsdp(0xa0000);
  expect(sum(pointer)).toBe(0);
  expect(sum(pointer.subarray(0, 20))).toBe(0);
  expect(fadt(0).length).toBe(276);
});

test("a virtio device is the AML that iasl makes of the same source", () => {
  const expected = [
    "5b8241045630303008 5f484944 0d4c4e524f3030303500",
    "08 5f554944 00 08 5f434341 01",
    "08 5f435253 111a 0a17 860900010010 00c0 00100000 890600030105000000 7900",
  ]
    .join("")
    .replaceAll(" ", "");
  const device = aml.device(
    "V000",
    aml.named("_HID", aml.string("LNRO0005")),
    aml.named("_UID", aml.integer(0)),
    aml.named("_CCA", aml.integer(1)),
    aml.named("_CRS", aml.resources(aml.memory32(0xc0001000, 0x1000), aml.edgeInterrupt(5))),
  );
  expect(Buffer.from(device).toString("hex")).toBe(expected);
});

test("interrupts and addresses are distinct and end within the I/O APIC's 24 pins", () => {
  expect(new Set(most.map((device) => device.gsi)).size).toBe(16);
  expect(Math.max(...most.map((device) => device.gsi))).toBeLessThanOrEqual(23);
  expect(most[0]).toMatchObject({ base: 0xc0001000, gsi: 5, kind: "vsock" });
});

test("the largest set of tables fits below the RSDP and hangs together", () => {
  const view = new ArrayBuffer(MIB);
  writeAcpi(new GuestMemory([{ gpa: 0, len: MIB, view }]), makeAcpi(8, most));
  const ram = new DataView(view);
  const signature = (at: number): string => Buffer.from(view, at, 4).toString();
  const at = (where: number): number => Number(ram.getBigUint64(where, true));
  const root = at(LAYOUT.rsdp + 24);
  expect(signature(root)).toBe("XSDT");
  expect([signature(at(root + 36)), signature(at(root + 44))]).toEqual(["FACP", "APIC"]);
  expect(signature(at(at(root + 36) + 140))).toBe("DSDT");
});

const iasl = Bun.which("iasl");
test.skipIf(iasl === null)("iasl disassembles all tables without a complaint", () => {
  const directory = mkdtempSync(join(tmpdir(), "leveret-acpi-"));
  try {
    const tables = { dsdt: dsdt(most), facp: fadt(0x9fc00), apic: madt(32), xsdt: xsdt([1, 2]) };
    for (const [name, table] of Object.entries(tables)) {
      const path = join(directory, `${name}.aml`);
      writeFileSync(path, table);
      const run = Bun.spawnSync([iasl ?? "iasl", "-d", path], { stderr: "pipe" });
      const said = `${run.stdout.toString()}${run.stderr.toString()}`;
      expect({ name, code: run.exitCode }).toEqual({ name, code: 0 });
      expect(said).not.toMatch(/error|invalid|incorrect|unknown/i);
    }
    const source = readFileSync(join(directory, "dsdt.dsl"), "utf8");
    expect(source.match(/"LNRO0005"/g)).toHaveLength(16);
    expect(source).toContain('EisaId ("PNP0501")');
    expect(source).toContain('EisaId ("PNP0C0C")');
    // The event device names both events by their interrupts.
    const events = source.slice(source.indexOf("Device (GED0)")).replaceAll(/\s+/g, " ");
    expect(events).toMatch(/0x00000016, } .*0x00000017, }/);
    expect(events).toMatch(/If \(\(Arg0 == 0x16\)\) { Notify \(VGEN, 0x80\)/);
    expect(events).toMatch(/If \(\(Arg0 == 0x17\)\) { Notify \(PWRB, 0x80\)/);
    expect(source).toContain("Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive");
    const recompiled = Bun.spawnSync([
      iasl ?? "iasl",
      "-p",
      join(directory, "again"),
      join(directory, "dsdt.dsl"),
    ]);
    expect(recompiled.stdout.toString()).toContain("0 Errors");
  } finally {
    rmSync(directory, { recursive: true });
  }
});
