/**
 * A VM out of a spec: files checked first (a bad file needs no KVM to be found),
 * then memory, kernel, tables, devices, vCPU state. Nothing runs yet afterwards.
 *
 * File descriptors: the shim duplicates those of disks and console; all of ours are
 * closed again on every path. A mapped kernel stays mapped without one.
 */
import { closeSync, fstatSync, openSync, readFileSync, type Stats } from "node:fs";
import { type NetConfig, type Shim, Vm } from "../../native/ffi.ts";
import { VMM_EXIT, type VmmSpec } from "../../proto/vmm.ts";
import {
  POWER_OFF_VALUE,
  POWER_PORT,
  RESET_VALUE,
  SERIAL_GSI,
  SERIAL_PORT,
  writeAcpi,
} from "./acpi.ts";
import { commandLine, placeInitrd, writeBootParameters } from "./boot.ts";
import { applyTemplate, cpuidFor, decodeCpuid, encodeCpuid } from "./cpuid.ts";
import { type Device, GUEST_CID, layoutDevices } from "./devices.ts";
import { errorCode, errorText, VmmError } from "./errors.ts";
import { GuestMemory } from "./guest-memory.ts";
import { writeGeneration } from "./generation.ts";
import { fileReader, type FileReader, loadSegments, planKernel } from "./kernel-image.ts";
import { LAYOUT, MIB } from "./memory-map.ts";
import { mpTable } from "./mp-table.ts";
import { bootFpu, bootLapic, bootMsrs, bootRegs, bootSregs } from "./vcpu-state.ts";

/** Of serial output; what a guest writes past it is dropped. */
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
  /** Made ahead; taken when it has the right size, destroyed when it has not. */
  ahead?: { vm: Vm; cpus: number; memoryMib: number } | null;
};

/** Files that were opened; closed in one place. */
type Open = (path: string, flags: string, fail: (why: string) => VmmError) => number;

/** Throws VmmError or ShimError. */
export function buildMachine(options: MachineOptions): Machine {
  const fds: number[] = [];
  const open: Open = (path, flags, fail) => {
    try {
      const fd = openSync(path, flags);
      fds.push(fd);
      return fd;
    } catch (error) {
      throw fail(errorCode(error) === "ENOENT" ? "no such file" : errorText(error));
    }
  };
  try {
    return assemble(options, open);
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

type Size = { cpus: number; memoryMib: number };

/** Throws VmmError or ShimError. */
export function createVm(shim: Shim, { cpus, memoryMib }: Size): Vm {
  Vm.probe(shim);
  const { lowLimit, highBase } = LAYOUT;
  const memoryBytes = memoryMib * MIB;
  return Vm.create({ vcpus: cpus, memoryBytes, lowLimit, highBase, pit: false }, shim);
}

function takeVm({ shim, spec, ahead = null }: MachineOptions): Vm {
  if (ahead !== null) {
    if (ahead.cpus === spec.cpus && ahead.memoryMib === spec.memoryMib) return ahead.vm;
    ahead.vm.destroy();
  }
  return createVm(shim, spec);
}

function assemble(options: MachineOptions, open: Open): Machine {
  const { spec, consoleFd, vsockPath } = options;
  const kernelFd = open(spec.kernelPath, "r", (why) => kernelMissing(spec.kernelPath, why));
  const kernel = fileReader(spec.kernelPath, kernelFd);
  const plan = planKernel(kernel);
  const initrd = spec.initrdPath === null ? null : openInitrd(spec.initrdPath, open);
  const memoryBytes = spec.memoryMib * MIB;
  const place = placeInitrd(plan, memoryBytes, initrd?.file.bytes ?? 0);
  const devices = layoutDevices(spec);
  const disks = spec.disks.map((disk) => openDisk(disk.path, disk.readOnly, open));
  const line = commandLine(spec.kernelArgs, [], plan.commandLineMax);

  const vm = takeVm(options);
  try {
    const memory = new GuestMemory(vm.regions);
    loadSegments(plan, kernel, memory, (gpa, bytes, at) => vm.mapFile(gpa, bytes, kernelFd, at));
    if (initrd !== null) {
      const whole = { gpa: place.start, offset: 0, fileBytes: place.bytes, memoryBytes: 0 };
      loadSegments({ segments: [whole] }, initrd.file, memory, (gpa, bytes, at) =>
        vm.mapFile(gpa, bytes, initrd.fd, at),
      );
    }
    writeBootParameters(memory, {
      plan,
      memoryBytes,
      commandLine: line,
      initrd: initrd === null ? null : place,
      seed: crypto.getRandomValues(new Uint8Array(SEED_BYTES)),
    });
    writeAcpi(memory, spec.cpus, devices);
    writeGeneration(memory);
    memory.write(LAYOUT.mpTable, mpTable(LAYOUT.mpTable, spec.cpus));
    addDevices(vm, spec.cpus, devices, disks, consoleFd, vsockPath);
    setVcpus(vm, spec, plan.entry);
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

function openInitrd(path: string, open: Open): { fd: number; file: FileReader } {
  const fd = open(
    path,
    "r",
    (why) =>
      new VmmError(
        "KERNEL_NOT_FOUND",
        VMM_EXIT.kernelInvalid,
        `Cannot open initrd ${path}: ${why}`,
      ),
  );
  return { fd, file: fileReader(path, fd) };
}

type OpenDisk = { fd: number; bytes: number };

function openDisk(path: string, readOnly: boolean, open: Open): OpenDisk {
  const fail = (why: string): VmmError =>
    new VmmError("CONFIG_INVALID", VMM_EXIT.specInvalid, `Cannot open disk ${path}: ${why}`);
  const fd = open(path, readOnly ? "r" : "r+", fail);
  const stat = fstatSync(fd);
  if (!stat.isFile() && !stat.isBlockDevice()) throw fail("it is no file and no block device");
  const bytes = stat.isBlockDevice() ? blockDeviceBytes(stat) : stat.size;
  if (bytes < 512) throw fail("it is empty");
  return { fd, bytes };
}

/** stat says 0 for a block device; sysfs says 512-byte sectors. */
function blockDeviceBytes(stat: Stats): number {
  const major = Math.floor(stat.rdev / 256) & 0xfff;
  const minor = (stat.rdev & 0xff) | ((stat.rdev >>> 12) & 0xfff00);
  return Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, "utf8")) * 512;
}

function addDevices(
  vm: Vm,
  cpus: number,
  devices: readonly Device[],
  disks: readonly OpenDisk[],
  consoleFd: number,
  vsockPath: string,
): void {
  vm.addSerial({
    port: SERIAL_PORT,
    gsi: SERIAL_GSI,
    outFd: consoleFd,
    outLimit: CONSOLE_LIMIT_BYTES,
  });
  vm.addPower({ port: POWER_PORT, powerOff: POWER_OFF_VALUE, reset: RESET_VALUE });
  const queues = Math.min(cpus, BLK_QUEUES_MAX);
  devices.forEach((device, index) => {
    const { base, gsi } = device;
    switch (device.kind) {
      case "blk": {
        const disk = disks[index];
        if (disk === undefined) throw new RangeError(`Disk ${index} was not opened`);
        const { readOnly, id, limit = {} } = device.disk;
        vm.addBlk({ base, gsi, fd: disk.fd, readOnly, bytes: disk.bytes, id, queues, limit });
        break;
      }
      case "net": {
        const { kind, name, mac, mtu, rx = {}, tx = {} } = device.network;
        const octets = Uint8Array.from(mac.split(":"), (octet) => Number.parseInt(octet, 16));
        addNet(vm, {
          base,
          gsi,
          kind: kind === "tap" ? kind : "socket",
          name,
          mac: octets,
          mtu,
          rx,
          tx,
        });
        break;
      }
      case "vsock":
        vm.addVsock({ base, gsi, guestCid: GUEST_CID, path: vsockPath });
        break;
      case "balloon":
        vm.addBalloon({ base, gsi });
        break;
      case "rng":
        vm.addRng({ base, gsi });
        break;
      default: {
        const rest: never = device;
        throw new TypeError(`No such device: ${JSON.stringify(rest)}`);
      }
    }
  });
}

/** A stack that has bound its socket a moment ago may not listen on it yet. */
function addNet(vm: Vm, config: NetConfig, tries = NET_TRIES): void {
  try {
    vm.addNet(config);
  } catch (error) {
    if (errorCode(error) === "ECONNREFUSED" && tries > 1) {
      Bun.sleepSync(NET_RETRY_MS);
      return addNet(vm, config, tries - 1);
    }
    const what = config.kind === "tap" ? "TAP interface" : "network stack at";
    const text = `Cannot open the ${what} ${config.name}: ${errorText(error)}`;
    throw new VmmError("VMM_FAULT", VMM_EXIT.vmmFault, text, error);
  }
}

/** In the order Linux ≥ 6.13 wants: MSRs that depend on CPUID read as zero before it is set. */
function setVcpus(vm: Vm, { cpus, cpuTemplate = "host" }: VmmSpec, entry: number): void {
  const offered = applyTemplate(decodeCpuid(vm.supportedCpuid()), cpuTemplate);
  for (let vcpu = 0; vcpu < cpus; vcpu += 1) {
    vm.setCpuid(vcpu, encodeCpuid(cpuidFor(offered, vcpu, cpus)));
    vm.setMsrs(vcpu, bootMsrs());
    vm.setState(vcpu, "regs", bootRegs(entry));
    vm.setState(vcpu, "fpu", bootFpu());
    vm.setState(vcpu, "sregs", bootSregs(vm.getState(vcpu, "sregs")));
    vm.setState(vcpu, "lapic", bootLapic(vm.getState(vcpu, "lapic")));
  }
}
