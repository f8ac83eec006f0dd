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
  | { kind: "console" }
  | { kind: "vsock" }
  | { kind: "rng" }
  | { kind: "balloon" };
export type Device = { base: number; gsi: number } & Kind;

/** Whether the kernel is told to speak on hvc0, which is a virtio device and not COM1. */
export const hasVirtioConsole = (kernelArgs: string): boolean =>
  /(^|\s)console=hvc0(\s|,|$)/.test(kernelArgs);

/** The guest's address on its own vsock; a machine has one neighbour, the host (2). */
export const GUEST_CID = 3;

type Wanted = Pick<VmmSpec, "disks" | "networks" | "kernelArgs">;

export function layoutDevices({ disks, networks, kernelArgs }: Wanted): Device[] {
  const kinds: Kind[] = [
    ...disks.map((disk) => ({ kind: "blk" as const, disk })),
    ...networks.map((network) => ({ kind: "net" as const, network })),
    ...(hasVirtioConsole(kernelArgs) ? [{ kind: "console" as const }] : []),
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
