/** Which virtio device sits where: in the order of the spec, disks first, networks next. */
import type { VmmNetwork, VmmSpec } from "../../proto/vmm.ts";
import { VIRTIO_MMIO_BYTES } from "./acpi.ts";
import { LAYOUT } from "./memory-map.ts";

/** GSIs 0–4 are the ISA ones (COM1 has 4); the I/O APIC ends at 23. */
const FIRST_GSI = 5;

export type Disk = VmmSpec["disks"][number];
type Kind =
  | { kind: "blk"; disk: Disk }
  | { kind: "net"; network: VmmNetwork }
  | { kind: "vsock" }
  | { kind: "rng" }
  | { kind: "balloon" };
export type Device = { base: number; gsi: number } & Kind;

/** The guest's address on its own vsock; a machine has one neighbour, the host (2). */
export const GUEST_CID = 3;

export function layoutDevices({ disks, networks }: Pick<VmmSpec, "disks" | "networks">): Device[] {
  const kinds: Kind[] = [
    ...disks.map((disk) => ({ kind: "blk" as const, disk })),
    ...networks.map((network) => ({ kind: "net" as const, network })),
    { kind: "vsock" },
    { kind: "rng" },
    { kind: "balloon" },
  ];
  return kinds.map((kind, index) => ({
    base: LAYOUT.virtioBase + index * VIRTIO_MMIO_BYTES,
    gsi: FIRST_GSI + index,
    ...kind,
  }));
}
