/**
 * A VM out of a spec: files checked first (a bad file needs no KVM to be found), then
 * all that can be had ahead of the machine (memory, kernel, vCPUs, the devices of every
 * machine), then what its spec says. Nothing runs yet afterwards.
 *
 * File descriptors: the shim duplicates those of disks and console; all of ours are
 * closed again on every path. A mapped kernel stays mapped without one.
 */
import {
  closeFile,
  type FileStatus,
  fileStatus,
  openFile,
  readText,
  removeFile,
  settleReadings,
} from "../../lib/libc.ts";
import { type NetConfig, type Shim, Vm } from "../../native/ffi.ts";
import { VMM_EXIT, type VmmExpected, type VmmSpec } from "../../proto/vmm.ts";
import {
  type Acpi,
  makeAcpi,
  POWER_OFF_VALUE,
  POWER_PORT,
  RESET_VALUE,
  SERIAL_GSI,
  SERIAL_PORT,
  writeAcpi,
} from "./acpi.ts";
import { commandLine, placeInitrd, writeBootParameters, writeBootTables } from "./boot.ts";
import { applyTemplate, cpuidFor, decodeCpuid, encodeCpuid } from "./cpuid.ts";
import {
  type Device,
  GUEST_CID,
  layoutDevices,
  slotOf,
  STANDING,
  type StandingDevice,
} from "./devices.ts";
import { errorCode, errorText, VmmError } from "./errors.ts";
import { GuestMemory } from "./guest-memory.ts";
import { writeGeneration } from "./generation.ts";
import {
  type BackgroundReader,
  fileReader,
  type KernelPlan,
  loadSegments,
  planKernel,
  type Segment,
} from "./kernel-image.ts";
import { LAYOUT, MIB, type Range } from "./memory-map.ts";
import { mpTable } from "./mp-table.ts";
import { bootFpu, bootLapic, bootMsrs, bootRegs, bootSregs } from "./vcpu-state.ts";

/** Of serial output, and of hvc0's; what a guest writes past it is dropped. */
export const CONSOLE_LIMIT_BYTES = MIB;
const SEED_BYTES = 64;
const NET_TRIES = 250;
const NET_RETRY_MS = 2;
/** One per vCPU; one thread serves them all, so more gain nothing. */
const BLK_QUEUES_MAX = 4;

export type Machine = { vm: Vm; vcpus: number; devices: readonly Device[]; commandLine: string };

export type MachineOptions = {
  shim: Shim;
  spec: VmmSpec;
  /** Serial output goes there. */
  consoleFd: number;
  /** The shim connects to "<path>_<port>"; relative to the working directory. */
  vsockPath: string;
  /** Made ahead; taken when it is of the right kind, destroyed when it is not. */
  ahead?: Base | null;
};

/** A machine without a spec: all that does not depend on which machine it will be. */
export type Base = {
  made: VmmExpected;
  vm: Vm;
  plan: KernelPlan;
  initrd: Range | null;
  /** For how many devices; others are made when there are others. */
  acpi: ReadonlyMap<number, Acpi>;
};

/** Its image and its scratch disk; those and a network. */
const USUAL_DEVICES = [STANDING.length + 2, STANDING.length + 3] as const;

/** Files that were opened; closed in one place. */
type Open = (path: string, how: "read" | "update", fail: (why: string) => VmmError) => number;

/** Runs `work` with a way to open files that are closed when it is over. */
function withFiles<T>(work: (open: Open) => T): T {
  const fds: number[] = [];
  const open: Open = (path, how, fail) => {
    try {
      const fd = openFile(path, how);
      fds.push(fd);
      return fd;
    } catch (error) {
      throw fail(errorCode(error) === "ENOENT" ? "no such file" : errorText(error));
    }
  };
  try {
    return work(open);
  } finally {
    for (const fd of fds) closeFile(fd);
  }
}

/** Throws VmmError or SystemError. */
export function buildMachine(options: MachineOptions): Machine {
  return withFiles((open) => assemble(options, open));
}

/** What is left of a start then is little more than its disks. Throws as above. */
export function prepareMachine(shim: Shim, expected: VmmExpected, vsockPath: string): Base {
  const base = withFiles((open) => prepare(shim, expected, vsockPath, open));
  const tables = USUAL_DEVICES.map((count): [number, Acpi] => {
    const slots = Array.from({ length: count }, (_, index) => slotOf(index));
    return [count, makeAcpi(expected.cpus, slots)];
  });
  return { ...base, acpi: new Map(tables) };
}

function createVm(shim: Shim, { cpus, memoryMib, hugepages = false }: VmmExpected): Vm {
  Vm.probe(shim);
  const { lowLimit, highBase, virtioBase: deviceBase } = LAYOUT;
  const memoryBytes = memoryMib * MIB;
  const power = { port: POWER_PORT, powerOff: POWER_OFF_VALUE, reset: RESET_VALUE };
  const where = { lowLimit, highBase, deviceBase };
  const config = { vcpus: cpus, memoryBytes, ...where, power, hugePages: hugepages };
  try {
    return Vm.create(config, shim);
  } catch (error) {
    if (!hugepages || errorCode(error) !== "ENOMEM") throw error;
    const text = `The host has not ${memoryMib / 2} free pages of 2 MiB: see \`lev doctor\` there`;
    throw new VmmError("NO_CAPACITY", VMM_EXIT.noCapacity, text, error);
  }
}

function prepare(shim: Shim, made: VmmExpected, vsockPath: string, open: Open): Base {
  const { cpus, kernelPath, initrdPath, memoryMib } = made;
  const kernelFd = open(kernelPath, "read", (why) => kernelMissing(kernelPath, why));
  const kernel = fileReader(kernelPath, kernelFd);
  const plan = planKernel(kernel);
  const initrd = initrdPath === null ? null : openInitrd(initrdPath, open);
  const place = placeInitrd(plan, memoryMib * MIB, initrd?.bytes ?? 0);

  const vm = createVm(shim, made);
  try {
    const memory = new GuestMemory(vm.regions);
    const begun = load(kernel, plan.segments, memory);
    if (initrd !== null) {
      const whole = { gpa: place.start, offset: 0, fileBytes: place.bytes, memoryBytes: 0 };
      begun.push(...load(initrd, [whole], memory));
    }
    writeBootTables(memory);
    memory.write(LAYOUT.mpTable, mpTable(LAYOUT.mpTable, cpus));
    setCpuids(vm, made);
    setStates(vm, cpus, plan.entry);
    // A stale file would stop it.
    removeFile(vsockPath);
    for (const device of STANDING) addStanding(vm, device, vsockPath);
    for (const finish of begun) finish();
    return { made, vm, plan, initrd: initrd === null ? null : place, acpi: new Map() };
  } catch (error) {
    settleReadings();
    vm.destroy();
    throw error;
  }
}

/** Begins to: clearing and filling its memory takes longer than all that is done meanwhile. */
function load(file: BackgroundReader, segments: readonly Segment[], memory: GuestMemory) {
  const begun: (() => void)[] = [];
  const read = (at: number, into: Uint8Array): void => void begun.push(file.begin(at, into));
  loadSegments({ segments }, { read }, memory);
  return begun;
}

const isLike = (one: VmmExpected, other: VmmExpected): boolean =>
  one.cpus === other.cpus &&
  one.memoryMib === other.memoryMib &&
  (one.cpuTemplate ?? "host") === (other.cpuTemplate ?? "host") &&
  (one.hugepages ?? false) === (other.hugepages ?? false) &&
  one.kernelPath === other.kernelPath &&
  one.initrdPath === other.initrdPath;

function takeBase({ shim, spec, vsockPath, ahead = null }: MachineOptions, open: Open): Base {
  if (ahead !== null && isLike(ahead.made, spec)) return ahead;
  ahead?.vm.destroy();
  return prepare(shim, spec, vsockPath, open);
}

function assemble(options: MachineOptions, open: Open): Machine {
  const { spec, consoleFd } = options;
  const devices = layoutDevices(spec);
  const disks = spec.disks.map((disk) => openDisk(disk.path, disk.readOnly, open));
  const { vm, plan, initrd, acpi } = takeBase(options, open);
  try {
    const memory = new GuestMemory(vm.regions);
    const line = commandLine(spec.kernelArgs, [], plan.commandLineMax);
    writeBootParameters(memory, {
      plan,
      memoryBytes: spec.memoryMib * MIB,
      commandLine: line,
      initrd,
      seed: crypto.getRandomValues(new Uint8Array(SEED_BYTES)),
    });
    writeAcpi(memory, acpi.get(devices.length) ?? makeAcpi(spec.cpus, devices));
    writeGeneration(memory);
    addDevices(vm, spec.cpus, devices, disks, consoleFd);
    // Here, since the guest's time stamp counter begins with it.
    for (let vcpu = 0; vcpu < spec.cpus; vcpu += 1) vm.setMsrs(vcpu, bootMsrs());
    return { vm, vcpus: spec.cpus, devices, commandLine: line };
  } catch (error) {
    vm.destroy();
    throw error;
  }
}

function kernelMissing(path: string, why: string): VmmError {
  return new VmmError(
    "KERNEL_NOT_FOUND",
    VMM_EXIT.kernelInvalid,
    `Cannot open kernel ${path}: ${why}`,
  );
}

function openInitrd(path: string, open: Open): BackgroundReader {
  const fd = open(
    path,
    "read",
    (why) =>
      new VmmError(
        "KERNEL_NOT_FOUND",
        VMM_EXIT.kernelInvalid,
        `Cannot open initrd ${path}: ${why}`,
      ),
  );
  return fileReader(path, fd);
}

type OpenDisk = { fd: number; bytes: number };

function openDisk(path: string, readOnly: boolean, open: Open): OpenDisk {
  const fail = (why: string): VmmError =>
    new VmmError("CONFIG_INVALID", VMM_EXIT.specInvalid, `Cannot open disk ${path}: ${why}`);
  const fd = open(path, readOnly ? "read" : "update", fail);
  const status = fileStatus(fd);
  if (status.kind === "other") throw fail("it is no file and no block device");
  const bytes = status.kind === "block" ? blockDeviceBytes(status) : status.bytes;
  if (bytes < 512) throw fail("it is empty");
  return { fd, bytes };
}

/** stat says 0 for a block device; sysfs says 512-byte sectors. */
function blockDeviceBytes({ major, minor }: FileStatus): number {
  return Number(readText(`/sys/dev/block/${major}:${minor}/size`)) * 512;
}

function addStanding(vm: Vm, { kind, gsi }: StandingDevice, path: string): void {
  switch (kind) {
    case "vsock":
      vm.addVsock({ gsi, guestCid: GUEST_CID, path });
      break;
    case "rng":
      vm.addRng({ gsi });
      break;
    case "balloon":
      vm.addBalloon({ gsi });
      break;
    default: {
      const rest: never = kind;
      throw new TypeError(`No such device: ${String(rest)}`);
    }
  }
}

/** Those of the spec; the others are there. */
function addDevices(
  vm: Vm,
  cpus: number,
  devices: readonly Device[],
  disks: readonly OpenDisk[],
  consoleFd: number,
): void {
  vm.addSerial({
    port: SERIAL_PORT,
    gsi: SERIAL_GSI,
    outFd: consoleFd,
    outLimit: CONSOLE_LIMIT_BYTES,
  });
  const queues = Math.min(cpus, BLK_QUEUES_MAX);
  let next = 0;
  for (const device of devices) {
    const { gsi } = device;
    switch (device.kind) {
      case "blk": {
        const disk = disks[next];
        if (disk === undefined) throw new RangeError(`Disk ${next} was not opened`);
        next += 1;
        const { readOnly, id, limit = {} } = device.disk;
        vm.addBlk({ gsi, fd: disk.fd, readOnly, bytes: disk.bytes, id, queues, limit });
        break;
      }
      case "net": {
        const { kind, name, fd, mac, mtu, rx = {}, tx = {} } = device.network;
        const octets = Uint8Array.from(mac.split(":"), (octet) => Number.parseInt(octet, 16));
        addNet(vm, {
          gsi,
          kind: kind === "tap" ? kind : "socket",
          name,
          ...(fd === undefined ? {} : { fd }),
          mac: octets,
          mtu,
          rx,
          tx,
        });
        break;
      }
      case "console":
        vm.addConsole({ gsi, outFd: consoleFd, outLimit: CONSOLE_LIMIT_BYTES });
        break;
      case "vsock":
      case "rng":
      case "balloon":
        break;
      default: {
        const rest: never = device;
        throw new TypeError(`No such device: ${JSON.stringify(rest)}`);
      }
    }
  }
}

/** A stack that has bound its socket a moment ago may not listen on it yet. */
function addNet(vm: Vm, config: NetConfig, tries = NET_TRIES): void {
  try {
    vm.addNet(config);
  } catch (error) {
    const code = errorCode(error);
    // EAGAIN: its backlog is full.
    if ((code === "ECONNREFUSED" || code === "EAGAIN") && tries > 1) {
      Bun.sleepSync(NET_RETRY_MS);
      return addNet(vm, config, tries - 1);
    }
    const what = config.kind === "tap" ? "TAP interface" : "network stack at";
    const text = `Cannot open the ${what} ${config.name}: ${errorText(error)}`;
    throw new VmmError("VMM_FAULT", VMM_EXIT.vmmFault, text, error);
  }
}

function setCpuids(vm: Vm, { cpus, cpuTemplate = "host" }: VmmExpected): void {
  const offered = applyTemplate(decodeCpuid(vm.supportedCpuid()), cpuTemplate);
  for (let vcpu = 0; vcpu < cpus; vcpu += 1)
    vm.setCpuid(vcpu, encodeCpuid(cpuidFor(offered, vcpu, cpus)));
}

/** After CPUID, which says what of it there is. MSRs come later, as Linux ≥ 6.13 wants, too. */
function setStates(vm: Vm, cpus: number, entry: number): void {
  for (let vcpu = 0; vcpu < cpus; vcpu += 1) {
    vm.setState(vcpu, "regs", bootRegs(entry));
    vm.setState(vcpu, "fpu", bootFpu());
    vm.setState(vcpu, "sregs", bootSregs(vm.getState(vcpu, "sregs")));
    vm.setState(vcpu, "lapic", bootLapic(vm.getState(vcpu, "lapic")));
  }
}
