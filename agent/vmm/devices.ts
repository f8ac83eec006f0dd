/**
 * Which virtio device sits where: first those that every machine has, which can be made
 * before its spec is known; then the spec's own in its order, disks before networks.
 */
import type { VmmNetwork, VmmSpec } from "../../proto/vmm.ts";
import { VIRTIO_MMIO_BYTES, type VirtioSlot } from "./acpi.ts";
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
export type Device = VirtioSlot & Kind;
/** Of every machine: no spec says anything of them. */
export type StandingDevice = VirtioSlot & { kind: "vsock" | "rng" | "balloon" };

/** Whether the kernel is told to speak on hvc0, which is a virtio device and not COM1. */
export const hasVirtioConsole = (kernelArgs: string): boolean =>
  /(^|\s)console=hvc0(\s|,|$)/.test(kernelArgs);

/** The guest's address on its own vsock; a machine has one neighbour, the host (2). */
export const GUEST_CID = 3;

export const slotOf = (index: number): VirtioSlot => ({
  base: LAYOUT.virtioBase + index * VIRTIO_MMIO_BYTES,
  gsi: FIRST_GSI + index,
});

export const STANDING: readonly StandingDevice[] = [
  { kind: "vsock", ...slotOf(0) },
  { kind: "rng", ...slotOf(1) },
  { kind: "balloon", ...slotOf(2) },
];

type Wanted = Pick<VmmSpec, "disks" | "networks" | "kernelArgs">;

export function layoutDevices({ disks, networks, kernelArgs }: Wanted): Device[] {
  const own: Kind[] = [
    ...disks.map((disk) => ({ kind: "blk" as const, disk })),
    ...networks.map((network) => ({ kind: "net" as const, network })),
    ...(hasVirtioConsole(kernelArgs) ? [{ kind: "console" as const }] : []),
  ];
  return [...STANDING, ...own.map((kind, i) => ({ ...kind, ...slotOf(STANDING.length + i) }))];
}
