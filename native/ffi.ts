/**
 * The only door to libleveret.so (native/leveret.h is its contract).
 *
 * Threads: everything here is called on the JS main thread. C threads never call
 * back; they leave events in a ring and make `eventFd` readable.
 * Memory: `regions` are windows of the guest's RAM, made once. Guest and C threads
 * write there at any time: read ring indices and flags with Atomics only. After
 * `destroy` the windows point at nothing and touching one kills the process.
 * Numbers, never bigints, outside: nothing here is larger than 2^53.
 */
import { dlopen, type Pointer, toArrayBuffer } from "bun:ffi";
import { fileExists } from "../lib/libc.ts";
import { ERRNO, SystemError } from "../lib/system-error.ts";
import * as abi from "./abi.gen.ts";
import { entryCount, entryList, LIST_BYTES } from "./entry-list.ts";
import type {
  VmConfig,
  Region,
  VcpuState,
  ConsoleConfig,
  SerialConfig,
  BlkConfig,
  Limit,
  NetConfig,
  BalloonConfig,
  BalloonStats,
  RngConfig,
  VsockConfig,
  VmEventKind,
  VmEvent,
  VcpuStats,
  DeviceStats,
  Filters,
} from "./ffi-types.ts";

export type * from "./ffi-types.ts";

/** A window is at most this long: JavaScriptCore's limit is 4 GiB. */
const WINDOW_MAX_BYTES = 2 ** 31;
const CPUID_MAX_ENTRIES = 256;
/** In kvm_regs and kvm_sregs; kvm_translation after its linear address. */
const RIP = 128;
const CS_BASE = 0;
const TRANSLATION = { gpa: 8, valid: 16 } as const;
const INSTRUCTION_BYTES = 16;
/** struct sock_filter */
const FILTER_STEP_BYTES = 8;
const PAGE_BYTES = 4_096;
/** Tags of virtio 1.2, 5.5.6.3. */
const STAT_FREE = 4;
const STAT_AVAILABLE = 6;

const SYMBOLS = {
  lv_abi_version: { args: [], returns: "u32" },
  lv_kvm_probe: { args: ["ptr"], returns: "i32" },
  lv_vm_create: { args: ["ptr", "ptr"], returns: "i32" },
  lv_vm_destroy: { args: ["ptr"], returns: "void" },
  lv_vm_region: { args: ["ptr", "u32", "ptr"], returns: "i32" },
  lv_vcpu_call: { args: ["ptr", "u32", "u32", "ptr", "u64"], returns: "i32" },
  lv_serial_add: { args: ["ptr", "ptr"], returns: "i32" },
  lv_balloon_set: { args: ["ptr", "u32", "u32"], returns: "i32" },
  lv_balloon_stats: { args: ["ptr", "u32", "ptr"], returns: "i32" },
  lv_device_add: { args: ["ptr", "u32", "ptr"], returns: "i32" },
  lv_vm_confine: { args: ["ptr", "u32", "ptr", "u32"], returns: "i32" },
  lv_vm_pulse: { args: ["ptr", "u32"], returns: "i32" },
  lv_vm_start: { args: ["ptr"], returns: "i32" },
  lv_vm_pause: { args: ["ptr"], returns: "i32" },
  lv_vm_resume: { args: ["ptr"], returns: "i32" },
  lv_vm_stop: { args: ["ptr"], returns: "i32" },
  lv_vm_event_fd: { args: ["ptr"], returns: "i32" },
  lv_vm_next_event: { args: ["ptr", "ptr"], returns: "i32" },
  lv_vcpu_stats: { args: ["ptr", "u32", "ptr"], returns: "i32" },
  lv_device_stats: { args: ["ptr", "u32", "ptr"], returns: "i32" },
} as const;

/** The loaded library's functions, each as in leveret.h. */
export type Shim = ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];

/** Throws SystemError for a negative result, else returns it. */
function check(call: string, result: number): number {
  if (result < 0) throw new SystemError(call, -result);
  return result;
}

/**
 * Loads the shim, by default native/out/libleveret.so. Throws an Error that says
 * how to build it when the file is missing or of another ABI version.
 */
export function openShim(path = `${import.meta.dir}/out/libleveret.so`): Shim {
  if (!fileExists(path)) {
    throw new Error(`Cannot load ${path}: no such file; run "bun run build" to make it`);
  }
  const shim = dlopen(path, SYMBOLS).symbols;
  const version = shim.lv_abi_version();
  if (version !== abi.ABI_VERSION) {
    throw new Error(
      `Cannot use ${path}: its ABI is version ${version}, not ${abi.ABI_VERSION}; run "bun run build"`,
    );
  }
  return shim;
}

const EVENT_KINDS: ReadonlyMap<number, VmEventKind> = new Map<number, VmEventKind>([
  [abi.EVENT_KIND.powerOff, "power_off"],
  [abi.EVENT_KIND.reset, "reset"],
  [abi.EVENT_KIND.debug, "debug"],
  [abi.EVENT_KIND.vcpuFailed, "vcpu_failed"],
  [abi.EVENT_KIND.deviceFailed, "device_failed"],
  [abi.EVENT_KIND.hostFailed, "host_failed"],
]);

/** An argument struct whose first field is its own size. */
function struct(bytes: number): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(bytes));
  view.setUint32(0, bytes, true);
  return view;
}

/** The same of a virtio device. */
function deviceStruct(
  at: { bytes: number; gsi: number },
  config: { gsi: number },
): DataView<ArrayBuffer> {
  const view = struct(at.bytes);
  view.setUint32(at.gsi, config.gsi, true);
  return view;
}

function asBytes(view: DataView<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(view.buffer);
}

function setU64(view: DataView, offset: number, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0)
    throw new RangeError(`Not an unsigned integer: ${value}`);
  view.setBigUint64(offset, BigInt(value), true);
}

function getU64(view: DataView, offset: number): number {
  return Number(view.getBigUint64(offset, true));
}

/** Text into a fixed array of `capacity` bytes; `reserve` of them must stay zero. */
function setText(
  view: DataView<ArrayBuffer>,
  offset: number,
  capacity: number,
  reserve: number,
  text: string,
): void {
  const encoded = new TextEncoder().encode(text);
  if (encoded.length > capacity - reserve || encoded.includes(0)) {
    throw new RangeError(`"${text}" must be at most ${capacity - reserve} bytes without a NUL`);
  }
  asBytes(view).set(encoded, offset);
}

function setLimit(view: DataView, offset: number, limit: Limit): void {
  const at = abi.LIMIT;
  setU64(view, offset + at.bytesRate, limit.bytesRate ?? 0);
  setU64(view, offset + at.bytesBurst, limit.bytesBurst ?? 0);
  setU64(view, offset + at.opsRate, limit.opsRate ?? 0);
  setU64(view, offset + at.opsBurst, limit.opsBurst ?? 0);
}

function readRegions(shim: Shim, handle: Pointer): Region[] {
  const regions: Region[] = [];
  const out = new DataView(new ArrayBuffer(abi.REGION.bytes));
  for (let index = 0; index < abi.MAX_REGIONS; index++) {
    const result = shim.lv_vm_region(handle, index, asBytes(out));
    if (result === -ERRNO.ENOENT) break;
    check("lv_vm_region", result);
    const gpa = getU64(out, abi.REGION.gpa);
    const hva = getU64(out, abi.REGION.hva);
    const end = getU64(out, abi.REGION.len);
    for (let start = 0; start < end; start += WINDOW_MAX_BYTES) {
      const len = Math.min(WINDOW_MAX_BYTES, end - start);
      regions.push({ gpa: gpa + start, len, view: toArrayBuffer(asPointer(hva + start), 0, len) });
    }
  }
  return regions;
}

function asPointer(address: number): Pointer {
  // Pointers are branded numbers in bun:ffi and there is no constructor for them.
  return address as Pointer;
}

/**
 * One virtual machine: create, fill `regions`, add devices, set vCPU state, start,
 * take events, stop, destroy. Every method may throw SystemError.
 */
export class Vm {
  readonly regions: readonly Region[];
  /** Non-blocking eventfd, readable when events wait; closed by `destroy`. */
  readonly eventFd: number;
  readonly #shim: Shim;
  #handle: Pointer | null;

  private constructor(shim: Shim, handle: Pointer) {
    this.#shim = shim;
    this.#handle = handle;
    this.regions = readRegions(shim, handle);
    this.eventFd = check("lv_vm_event_fd", shim.lv_vm_event_fd(handle));
  }

  /** Throws SystemError ENOENT, EACCES or ENODEV without a usable KVM, ENOTSUP without a capability. */
  static probe(shim: Shim = openShim()): void {
    const missing = new Uint32Array(1);
    const result = shim.lv_kvm_probe(missing);
    if (result === -ERRNO.ENOTSUP) {
      throw new SystemError("lv_kvm_probe", -result, `KVM lacks capability ${missing[0] ?? 0}`);
    }
    check("lv_kvm_probe", result);
  }

  static create(config: VmConfig, shim: Shim = openShim()): Vm {
    const at = abi.VM_CONFIG;
    const view = struct(at.bytes);
    view.setUint32(at.vcpus, config.vcpus, true);
    setU64(view, at.memoryBytes, config.memoryBytes);
    setU64(view, at.lowLimit, config.lowLimit);
    setU64(view, at.highBase, config.highBase);
    setU64(view, at.deviceBase, config.deviceBase);
    view.setUint32(at.flags, config.hugePages ? abi.VM_HUGE_PAGES : 0, true);
    view.setUint16(at.powerPort, config.power?.port ?? 0, true);
    view.setUint8(at.powerOff, config.power?.powerOff ?? 0);
    view.setUint8(at.reset, config.power?.reset ?? 0);
    view.setUint16(at.debugPort, config.debugPort ?? 0, true);
    const out = new BigUint64Array(1);
    check("lv_vm_create", shim.lv_vm_create(asBytes(view), out));
    return new Vm(shim, asPointer(Number(out[0])));
  }

  get #vm(): Pointer {
    if (this.#handle === null) throw new Error("The VM was destroyed");
    return this.#handle;
  }

  #vcpuCall(vcpu: number, call: number, bytes: Uint8Array): number {
    return check(
      "lv_vcpu_call",
      this.#shim.lv_vcpu_call(this.#vm, vcpu, call, bytes, bytes.byteLength),
    );
  }

  /** kvm_cpuid_entry2[n], 40 bytes each. */
  supportedCpuid(): Uint8Array<ArrayBuffer> {
    const list = entryList(
      new Uint8Array(CPUID_MAX_ENTRIES * abi.CPUID_ENTRY_BYTES),
      CPUID_MAX_ENTRIES,
    );
    this.#vcpuCall(0, abi.GET_SUPPORTED_CPUID, list);
    const count = new DataView(list.buffer).getUint32(0, true);
    return list.slice(LIST_BYTES, LIST_BYTES + count * abi.CPUID_ENTRY_BYTES);
  }

  setCpuid(vcpu: number, entries: Uint8Array): void {
    const count = entryCount(entries, abi.CPUID_ENTRY_BYTES);
    this.#vcpuCall(vcpu, abi.SET_CPUID, entryList(entries, count));
  }

  /** kvm_msr_entry[n], 16 bytes each; all are written or it throws EIO. */
  setMsrs(vcpu: number, entries: Uint8Array): void {
    const count = entryCount(entries, abi.MSR_ENTRY_BYTES);
    // KVM stops at the first it refuses and returns how many it took.
    if (this.#vcpuCall(vcpu, abi.SET_MSRS, entryList(entries, count)) !== count)
      throw new SystemError("lv_vcpu_call", ERRNO.EIO, "an MSR was refused");
  }

  /** The kernel's own struct: kvm_regs, kvm_sregs, kvm_fpu or kvm_lapic_state. */
  getState(vcpu: number, what: VcpuState): Uint8Array<ArrayBuffer> {
    const state = abi.VCPU_STATE[what];
    const bytes = new Uint8Array(state.bytes);
    this.#vcpuCall(vcpu, state.get, bytes);
    return bytes;
  }

  setState(vcpu: number, what: VcpuState, bytes: Uint8Array): void {
    this.#vcpuCall(vcpu, abi.VCPU_STATE[what].set, bytes);
  }

  addSerial(config: SerialConfig): void {
    const at = abi.SERIAL_CONFIG;
    const view = struct(at.bytes);
    view.setUint16(at.port, config.port, true);
    view.setUint32(at.gsi, config.gsi, true);
    view.setInt32(at.outFd, config.outFd, true);
    setU64(view, at.outLimit, config.outLimit);
    check("lv_serial_add", this.#shim.lv_serial_add(this.#vm, asBytes(view)));
  }

  #add(kind: keyof typeof abi.DEVICE, view: DataView<ArrayBuffer>): number {
    const result = this.#shim.lv_device_add(this.#vm, abi.DEVICE[kind], asBytes(view));
    return check(`lv_device_add ${kind}`, result);
  }

  /** Returns the device's index, as in events and `deviceStats`; so do addRng and addVsock. */
  addBlk(config: BlkConfig): number {
    const at = abi.BLK_CONFIG;
    const view = deviceStruct(at, config);
    view.setInt32(at.fd, config.fd, true);
    view.setUint32(at.flags, config.readOnly ? abi.BLK_READ_ONLY : 0, true);
    setU64(view, at.capacity, config.bytes);
    setText(view, at.id, abi.BLK_ID_BYTES, 0, config.id);
    view.setUint32(at.queues, config.queues, true);
    setLimit(view, at.limit, config.limit);
    return this.#add("blk", view);
  }

  addNet(config: NetConfig): number {
    const at = abi.NET_CONFIG;
    const view = deviceStruct(at, config);
    view.setInt32(at.fd, config.fd ?? -1, true);
    view.setUint32(at.flags, config.kind === "tap" ? abi.NET_TAP : 0, true);
    setLimit(view, at.rx, config.rx);
    setLimit(view, at.tx, config.tx);
    asBytes(view).set(config.mac.subarray(0, 6), at.mac);
    view.setUint16(at.mtu, config.mtu, true);
    setText(view, at.name, abi.NET_NAME_BYTES, 1, config.name);
    return this.#add("net", view);
  }

  addConsole(config: ConsoleConfig): number {
    const at = abi.CONSOLE_CONFIG;
    const view = deviceStruct(at, config);
    view.setInt32(at.outFd, config.outFd, true);
    setU64(view, at.outLimit, config.outLimit);
    return this.#add("console", view);
  }

  addBalloon(config: BalloonConfig): number {
    const view = deviceStruct(abi.BALLOON_CONFIG, config);
    return this.#add("balloon", view);
  }

  /** How much the guest is to give back; it may take it again when it runs out of memory. */
  setBalloon(device: number, bytes: number): void {
    const pages = Math.floor(bytes / PAGE_BYTES);
    check("lv_balloon_set", this.#shim.lv_balloon_set(this.#vm, device, pages));
  }

  balloonStats(device: number): BalloonStats {
    const at = abi.BALLOON_STATS;
    const view = new DataView(new ArrayBuffer(at.bytes));
    check("lv_balloon_stats", this.#shim.lv_balloon_stats(this.#vm, device, asBytes(view)));
    const guest = (tag: number): number => getU64(view, at.guest + 8 * tag);
    return {
      target: getU64(view, at.targetPages) * PAGE_BYTES,
      actual: getU64(view, at.actualPages) * PAGE_BYTES,
      free: guest(STAT_FREE),
      available: guest(STAT_AVAILABLE),
    };
  }

  addRng(config: RngConfig): number {
    const view = deviceStruct(abi.RNG_CONFIG, config);
    return this.#add("rng", view);
  }

  addVsock(config: VsockConfig): number {
    const at = abi.VSOCK_CONFIG;
    const view = deviceStruct(at, config);
    setU64(view, at.guestCid, config.guestCid);
    setText(view, at.path, abi.VSOCK_PATH_BYTES, 1, config.path);
    return this.#add("vsock", view);
  }

  /** Puts the process under its filter for good, the VM's own threads under theirs. Before `start`. */
  confine(filters: Filters): void {
    for (const who of ["vcpu", "io", "process"] as const) {
      const code = filters[who];
      const count = entryCount(code, FILTER_STEP_BYTES);
      check("lv_vm_confine", this.#shim.lv_vm_confine(this.#vm, abi.CONFINE[who], code, count));
    }
  }

  /** One edge on an interrupt line. */
  pulse(gsi: number): void {
    check("lv_vm_pulse", this.#shim.lv_vm_pulse(this.#vm, gsi));
  }

  start(): void {
    check("lv_vm_start", this.#shim.lv_vm_start(this.#vm));
  }

  /** Returns when every vCPU is out of the guest and every device is still; microseconds. */
  pause(): void {
    check("lv_vm_pause", this.#shim.lv_vm_pause(this.#vm));
  }

  resume(): void {
    check("lv_vm_resume", this.#shim.lv_vm_resume(this.#vm));
  }

  /** Joins all threads; safe to repeat. */
  stop(): void {
    check("lv_vm_stop", this.#shim.lv_vm_stop(this.#vm));
  }

  /** The oldest event that waits, or null. Call until null after each wake-up of `eventFd`. */
  nextEvent(): VmEvent | null {
    const at = abi.EVENT;
    const view = new DataView(new ArrayBuffer(at.bytes));
    if (check("lv_vm_next_event", this.#shim.lv_vm_next_event(this.#vm, asBytes(view))) === 0) {
      return null;
    }
    const number = view.getUint32(at.kind, true);
    const kind = EVENT_KINDS.get(number);
    if (kind === undefined) throw new Error(`The shim sent an event of unknown kind ${number}`);
    return {
      kind,
      vcpu: view.getUint32(at.vcpu, true),
      device: view.getUint32(at.device, true),
      detail: view.getUint32(at.detail, true),
      value: getU64(view, at.value),
      error: view.getInt32(at.error, true),
      timeNs: getU64(view, at.timeNs),
      bytes:
        kind === "vcpu_failed"
          ? this.#instruction(view.getUint32(at.vcpu, true))
          : new Uint8Array(0),
    };
  }

  /** What a stopped vCPU stands at, up to the end of its page; nothing when that is nowhere. */
  #instruction(vcpu: number): Uint8Array {
    const translation = new DataView(new ArrayBuffer(abi.TRANSLATION_BYTES));
    try {
      const word = (what: VcpuState, at: number): bigint =>
        new DataView(this.getState(vcpu, what).buffer).getBigUint64(at, true);
      translation.setBigUint64(0, word("sregs", CS_BASE) + word("regs", RIP), true);
      this.#vcpuCall(vcpu, abi.TRANSLATE, asBytes(translation));
    } catch (error) {
      if (error instanceof SystemError) return new Uint8Array(0);
      throw error;
    }
    const gpa = getU64(translation, TRANSLATION.gpa);
    const len = Math.min(INSTRUCTION_BYTES, PAGE_BYTES - (gpa % PAGE_BYTES));
    const region = this.regions.find((one) => gpa >= one.gpa && gpa + len <= one.gpa + one.len);
    if (translation.getUint8(TRANSLATION.valid) === 0 || region === undefined)
      return new Uint8Array(0);
    return new Uint8Array(region.view, gpa - region.gpa, len).slice();
  }

  vcpuStats(vcpu: number): VcpuStats {
    const at = abi.VCPU_STATS;
    const view = new DataView(new ArrayBuffer(at.bytes));
    check("lv_vcpu_stats", this.#shim.lv_vcpu_stats(this.#vm, vcpu, asBytes(view)));
    return counters(view, at);
  }

  deviceStats(device: number): DeviceStats {
    const at = abi.DEVICE_STATS;
    const view = new DataView(new ArrayBuffer(at.bytes));
    check("lv_device_stats", this.#shim.lv_device_stats(this.#vm, device, asBytes(view)));
    return counters(view, at);
  }

  /** Stops, closes and frees everything; no view of `regions` may be touched afterwards. */
  destroy(): void {
    if (this.#handle === null) return;
    this.#shim.lv_vm_destroy(this.#handle);
    this.#handle = null;
  }
}

/** A struct of nothing but u64s; `bytes` is its size. */
function counters<Field extends string>(
  view: DataView,
  at: Record<Field | "bytes", number>,
): Record<Field, number> {
  const fields = Object.entries<number>(at).filter(([name]) => name !== "bytes");
  return Object.fromEntries(fields.map(([name, offset]) => [name, getU64(view, offset)])) as Record<
    Field,
    number
  >;
}
