/** What goes through the door of ffi.ts; native/leveret.h says what the fields mean. */
import type * as abi from "./abi.gen.ts";

export type VmConfig = {
  vcpus: number;
  memoryBytes: number;
  /** RAM up to this gpa is region 0; the rest starts at highBase. */
  lowLimit: number;
  highBase: number;
  /** The registers of the devices, a page each in the order of their making. */
  deviceBase: number;
  /** ACPI's sleep and reset registers; a guest can only end by i8042 when left out. */
  power?: PowerConfig;
  /** Each byte written there becomes a "debug" event. */
  debugPort?: number;
  /** Memory in pages of 2 MiB; false when left out. Nothing can be mapped into it then. */
  hugePages?: boolean;
};

/** A window of guest RAM, at most 2 GiB long; together they cover all of it, in order of gpa. */
export type Region = { gpa: number; len: number; view: ArrayBuffer };

export type VcpuState = keyof typeof abi.VCPU_STATE;

export type SerialConfig = {
  port: number;
  gsi: number;
  /** Duplicated by the shim; -1 discards the output. */
  outFd: number;
  /** Bytes ever written to outFd; 0 = no limit. */
  outLimit: number;
};
/** outFd and outLimit as the serial port's. */
export type ConsoleConfig = { gsi: number; outFd: number; outLimit: number };
export type PowerConfig = { port: number; powerOff: number; reset: number };
export type BlkConfig = {
  gsi: number;
  /** Duplicated by the shim. */
  fd: number;
  readOnly: boolean;
  bytes: number;
  /** GET_ID: at most 20 bytes of ASCII. */
  id: string;
  /** 1 to 8. */
  queues: number;
  limit: Limit;
};
/** Token buckets; a rate of 0 (or none given) is no limit, a burst of 0 a second's worth. */
export type Limit = {
  bytesRate?: number;
  bytesBurst?: number;
  opsRate?: number;
  opsBurst?: number;
};
export type NetConfig = {
  gsi: number;
  /** A TAP interface's name or the path of a user-mode stack's socket. */
  kind: "tap" | "socket";
  name: string;
  /** Open already, duplicated by the shim; the name is for messages then. */
  fd?: number;
  mac: Uint8Array;
  mtu: number;
  /** Into the guest. */
  rx: Limit;
  tx: Limit;
};
export type BalloonConfig = { gsi: number };
/** Bytes; the guest's are as of the call before, which asked it for new ones. */
export type BalloonStats = { target: number; actual: number; free: number; available: number };
export type RngConfig = { gsi: number };
/** `path` is at most 103 bytes; a port whose `<path>_<port>` passes 107 is refused to the guest. */
export type VsockConfig = { gsi: number; guestCid: number; path: string };

export type VmEventKind =
  "power_off" | "reset" | "debug" | "vcpu_failed" | "device_failed" | "host_failed";

/** What each field means for a kind: enum lv_event_kind in leveret.h. */
export type VmEvent = {
  kind: VmEventKind;
  vcpu: number;
  device: number;
  detail: number;
  value: number;
  /** errno or 0. */
  error: number;
  /** CLOCK_MONOTONIC. */
  timeNs: number;
  /** Of "vcpu_failed": the instruction it stands at, as much as can be had of 16 bytes. */
  bytes: Uint8Array;
};

export type VcpuStats = {
  exitsPio: number;
  exitsMmio: number;
  exitsIntr: number;
  exitsOther: number;
};
export type DeviceStats = {
  notifies: number;
  interrupts: number;
  requests: number;
  bytesIn: number;
  bytesOut: number;
  malformed: number;
  dropped: number;
  errors: number;
  /** Times that a rate limit made it wait. */
  throttled: number;
};

/** Seccomp programs, struct sock_filter[n]: of the whole process, and of threads beside it. */
export type Filters = { process: Uint8Array; vcpu: Uint8Array; io: Uint8Array };
