/** Which virtio device sits where: in the order of the spec, disks first. */
import type { VmmSpec } from "../../proto/vmm.ts";
import { VIRTIO_MMIO_BYTES } from "./acpi.ts";
import { LAYOUT } from "./memory-map.ts";

/** GSIs 0–4 are the ISA ones (COM1 has 4); the I/O APIC ends at 23. */
const FIRST_GSI = 5;

export type Disk = VmmSpec["disks"][number];
export type Device = { base: number; gsi: number } & (
  { kind: "blk"; disk: Disk } | { kind: "vsock" } | { kind: "rng" }
);

/** The guest's address on its own vsock; a machine has one neighbour, the host (2). */
export const GUEST_CID = 3;

export function layoutDevices(disks: readonly Disk[]): Device[] {
  const kinds: ({ kind: "blk"; disk: Disk } | { kind: "vsock" } | { kind: "rng" })[] = [
    ...disks.map((disk) => ({ kind: "blk" as const, disk })),
    { kind: "vsock" },
    { kind: "rng" },
  ];
  return kinds.map((kind, index) => ({
    base: LAYOUT.virtioBase + index * VIRTIO_MMIO_BYTES,
    gsi: FIRST_GSI + index,
    ...kind,
  }));
}
