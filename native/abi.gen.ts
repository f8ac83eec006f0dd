/**
 * Printed by native/abi_gen.c from leveret.h; made by `bun native/build.ts --abi`.
 * Offsets and sizes in bytes.
 */
export const ABI_VERSION = 1;
export const MAX_VCPUS = 32;
export const MAX_DEVICES = 16;
export const MAX_REGIONS = 4;
export const VM_PIT = 1;
export const BLK_READ_ONLY = 1;
export const NET_TAP = 1;
export const VCPU_STATE = {
  regs: { what: 0, bytes: 144 },
  sregs: { what: 1, bytes: 312 },
  fpu: { what: 2, bytes: 416 },
  lapic: { what: 3, bytes: 1024 },
} as const;
export const CPUID_ENTRY_BYTES = 40;
export const MSR_ENTRY_BYTES = 16;
export const EVENT_KIND = {
  powerOff: 1,
  reset: 2,
  debug: 3,
  vcpuFailed: 4,
  deviceFailed: 5,
  hostFailed: 6,
} as const;
export const VM_CONFIG = {
  bytes: 40,
  size: 0,
  vcpus: 4,
  memoryBytes: 8,
  lowLimit: 16,
  highBase: 24,
  flags: 32,
} as const;
export const REGION = {
  bytes: 24,
  gpa: 0,
  hva: 8,
  len: 16,
} as const;
export const SERIAL_CONFIG = {
  bytes: 24,
  size: 0,
  port: 4,
  gsi: 8,
  outFd: 12,
  outLimit: 16,
} as const;
export const POWER_CONFIG = {
  bytes: 8,
  size: 0,
  port: 4,
  powerOff: 6,
  reset: 7,
} as const;
export const BLK_CONFIG = {
  bytes: 88,
  size: 0,
  gsi: 4,
  base: 8,
  fd: 16,
  flags: 20,
  capacity: 24,
  id: 32,
  queues: 52,
  limit: 56,
} as const;
export const BLK_ID_BYTES = 20;
export const LIMIT = {
  bytes: 32,
  bytesRate: 0,
  bytesBurst: 8,
  opsRate: 16,
  opsBurst: 24,
} as const;
export const NET_CONFIG = {
  bytes: 200,
  size: 0,
  gsi: 4,
  base: 8,
  fd: 16,
  flags: 20,
  rx: 24,
  tx: 56,
  mac: 88,
  mtu: 94,
  name: 96,
} as const;
export const NET_NAME_BYTES = 104;
export const BALLOON_CONFIG = {
  bytes: 16,
  size: 0,
  gsi: 4,
  base: 8,
} as const;
export const BALLOON_STATS = {
  bytes: 96,
  targetPages: 0,
  actualPages: 8,
  guest: 16,
} as const;
export const RNG_CONFIG = {
  bytes: 16,
  size: 0,
  gsi: 4,
  base: 8,
} as const;
export const VSOCK_CONFIG = {
  bytes: 128,
  size: 0,
  gsi: 4,
  base: 8,
  guestCid: 16,
  path: 24,
} as const;
export const VSOCK_PATH_BYTES = 104;
export const EVENT = {
  bytes: 56,
  kind: 0,
  vcpu: 4,
  device: 8,
  detail: 12,
  value: 16,
  error: 24,
  timeNs: 32,
  code: 40,
} as const;
export const EVENT_CODE_BYTES = 16;
export const VCPU_STATS = {
  bytes: 32,
  exitsPio: 0,
  exitsMmio: 8,
  exitsIntr: 16,
  exitsOther: 24,
} as const;
export const DEVICE_STATS = {
  bytes: 72,
  notifies: 0,
  interrupts: 8,
  requests: 16,
  bytesIn: 24,
  bytesOut: 32,
  malformed: 40,
  dropped: 48,
  errors: 56,
  throttled: 64,
} as const;
