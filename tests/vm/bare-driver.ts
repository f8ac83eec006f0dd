/**
 * A virtio driver as a list for native/guests/script.S: what it writes into its rings
 * and into the device's registers, in order. Every write is the guest's own, through
 * /dev/kvm; so is every mistake.
 */
import type { GuestMemory } from "../../agent/vmm/guest-memory.ts";

export type Entry = readonly [what: number, address: bigint, value: bigint];

const LIST = 0x200000;
export const DEVICE = 0x10000000;
export const DESC = 0x300000;
export const AVAIL = 0x301000;
export const USED = 0x302000;
export const DATA = 0x304000;
export const QUEUE_SIZE = 16;

export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;

const VERSION_1 = 1;
export const INDIRECT_DESC = 1 << 28;

const entry = (what: number, address: number | bigint, value: number | bigint): Entry => [
  what,
  BigInt(address),
  BigInt(value),
];

export const write8 = (gpa: number, value: number): Entry => entry(1, gpa, value);
export const write32 = (gpa: number, value: number): Entry => entry(2, gpa, value);
export const write64 = (gpa: number, value: bigint): Entry => entry(3, gpa, value);
export const read32 = (gpa: number): Entry => entry(4, gpa, 0);
export const out = (bytes: 1 | 2 | 4, port: number, value: number): Entry =>
  entry(4 + (bytes === 4 ? 3 : bytes), port, value);
export const outString = (port: number, bytes: number): Entry => entry(8, port, bytes);
/** Until one of the bits is set; 2 on the debug port when none ever is. */
export const awaitBits = (gpa: number, bits: number): Entry => entry(9, gpa, bits);
export const clear = (gpa: number, bytes: number): Entry => entry(10, gpa, bytes);
export const register = (offset: number, value: number): Entry => write32(DEVICE + offset, value);

export const status = (value: number): Entry => register(0x070, value);
export const notify = (queue = 0): Entry => register(0x050, queue);
export const failed: Entry = awaitBits(DEVICE + 0x070, 0x40);

/** From reset to FEATURES_OK; `features` are the low 32 bits. */
export const negotiate = (features = 0): Entry[] => [
  status(0),
  status(1),
  status(3),
  register(0x024, 0),
  register(0x020, features),
  register(0x024, 1),
  register(0x020, VERSION_1),
  status(11),
];

const address = (offset: number, gpa: bigint): Entry[] => [
  register(offset, Number(gpa & 0xffffffffn)),
  register(offset + 4, Number(gpa >> 32n)),
];

export type Rings = { size?: number; desc?: bigint; avail?: bigint; used?: bigint };

export const setRings = (rings: Rings = {}): Entry[] => [
  register(0x030, 0),
  register(0x038, rings.size ?? QUEUE_SIZE),
  ...address(0x080, rings.desc ?? BigInt(DESC)),
  ...address(0x090, rings.avail ?? BigInt(AVAIL)),
  ...address(0x0a0, rings.used ?? BigInt(USED)),
  register(0x044, 1),
];

/** From any state to a device that runs with empty rings. */
export const start = (features = 0, rings: Rings = {}): Entry[] => [
  status(0),
  clear(DESC, 0x4000),
  ...negotiate(features),
  ...setRings(rings),
  status(15),
];

export const describe = (
  index: number,
  gpa: bigint,
  length: number,
  flags: number,
  next = 0,
  table = DESC,
): Entry[] => [
  write64(table + 16 * index, gpa),
  write32(table + 16 * index + 8, length),
  write32(table + 16 * index + 12, flags | (next << 16)),
];

/** Makes `head` the first available chain, with index `idx`, and notifies. */
export const offer = (head: number, idx = 1): Entry[] => [
  write32(AVAIL + 4, head),
  write32(AVAIL, idx << 16),
  notify(),
];

/** A driver that does all right: a buffer of 64 bytes comes back filled. */
export const rightUse = (): Entry[] => [
  ...start(),
  ...describe(0, BigInt(DATA), 64, WRITE),
  ...offer(0),
  awaitBits(USED, 0x10000),
];

export function writeList(memory: GuestMemory, list: readonly Entry[]): void {
  const words = list.flatMap(([what, gpa, value]) => [what, gpa, value].map(BigInt));
  const ended = BigUint64Array.from([...words, 0n, 0n, 0n]);
  memory.write(LIST, new Uint8Array(ended.buffer));
}

/** What the read at this place of the list gave. */
export function readBack(memory: GuestMemory, index: number): number {
  const [piece] = memory.pieces(LIST + 24 * index + 16, 4);
  return Buffer.from(piece ?? []).readUInt32LE();
}
