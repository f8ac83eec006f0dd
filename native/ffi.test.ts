import { beforeAll, describe, expect, test } from "bun:test";
import {
  accessSync,
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { make, printAbi } from "./build.ts";
import { SystemError } from "../lib/system-error.ts";
import { openShim, Vm, type VmConfig, type VmEvent } from "./ffi.ts";

const GIB = 2 ** 30;
const CONFIG: VmConfig = {
  vcpus: 1,
  memoryBytes: 2 * 2 ** 20,
  lowLimit: 3 * GIB,
  highBase: 4 * GIB,
  deviceBase: 3 * GIB,
  power: { port: 0x600, powerOff: 0x34, reset: 1 },
  debugPort: 0xf4,
};
const CODE_AT = 0x1000;

beforeAll(() => make(), 120_000);

function kvmOpens(): boolean {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    process.stderr.write("skipped: /dev/kvm does not open here\n");
    return false;
  }
}

/** Starts vCPU 0 in real mode at CODE_AT with interrupts off. */
function load(vm: Vm, code: readonly number[]): void {
  const region = vm.regions[0];
  if (region === undefined) throw new Error("The VM has no memory");
  new Uint8Array(region.view).set(code, CODE_AT);
  const sregs = vm.getState(0, "sregs");
  const cs = new DataView(sregs.buffer);
  cs.setBigUint64(0, 0n, true); // base
  cs.setUint16(12, 0, true); // selector
  vm.setState(0, "sregs", sregs);
  const regs = vm.getState(0, "regs");
  const view = new DataView(regs.buffer);
  view.setBigUint64(128, BigInt(CODE_AT), true); // rip
  view.setBigUint64(136, 2n, true); // rflags
  vm.setState(0, "regs", regs);
}

/** Reads events until one of `last`. */
async function eventsUntil(vm: Vm, last: VmEvent["kind"]): Promise<VmEvent[]> {
  const events: VmEvent[] = [];
  const reader = Bun.file(vm.eventFd).stream().getReader();
  try {
    for (let wakes = 0; wakes < 100; wakes++) {
      await reader.read();
      for (let event = vm.nextEvent(); event !== null; event = vm.nextEvent()) {
        events.push(event);
        if (event.kind === last) return events;
      }
    }
    throw new Error(`No ${last} among ${events.map((event) => event.kind).join(", ")}`);
  } finally {
    await reader.cancel();
  }
}

test("abi.gen.ts is what the compiled headers say", async () => {
  expect(await Bun.file(join(import.meta.dir, "abi.gen.ts")).text()).toBe(await printAbi());
});

test("the library exports leveret.h and nothing else", async () => {
  const library = join(import.meta.dir, "out/libleveret.so");
  const nm = Bun.spawn(["nm", "-D", "--defined-only", "--format=just-symbols", library], {
    stdout: "pipe",
  });
  const exported = (await new Response(nm.stdout).text())
    .split("\n")
    .map((line) => line.replace(/@.*/, ""))
    .filter((name) => name.startsWith("lv_"));
  const header = readFileSync(join(import.meta.dir, "leveret.h"), "utf8");
  const declared = [...header.matchAll(/^(?:int|void|uint32_t) (lv_\w+)\(/gm)].map(
    (match) => match[1],
  );
  expect(exported.sort()).toEqual(declared.map(String).sort());
});

test("a missing library says how to build it", () => {
  expect(() => openShim("/nonexistent/libleveret.so")).toThrow(/bun run build/);
});

test("a SystemError names the call and the errno", () => {
  const error = new SystemError("lv_vm_create", 13);
  expect(error.message).toBe("lv_vm_create: EACCES (13)");
  expect(error.errno).toBe(13);
});

test("arguments are refused by the shim before anything is opened", () => {
  for (const wrong of [{ vcpus: 0 }, { vcpus: 33 }, { memoryBytes: 4097 }, { highBase: 0 }]) {
    expect(() => Vm.create({ ...CONFIG, ...wrong })).toThrow("lv_vm_create: EINVAL (22)");
  }
  expect(() => Vm.create({ ...CONFIG, memoryBytes: -1 })).toThrow(RangeError);
});

describe.skipIf(!kvmOpens())("with /dev/kvm", () => {
  test("a tiny guest speaks through serial and debug port and powers off", async () => {
    Vm.probe();
    const directory = mkdtempSync(join(tmpdir(), "lv-ffi-"));
    const path = join(directory, "console.log");
    const fd = openSync(path, "w");
    const vm = Vm.create(CONFIG);
    try {
      vm.addSerial({ port: 0x3f8, gsi: 4, outFd: fd, outLimit: 1024 });
      // mov dx, 0x3f8; mov al, 'A'; out; mov al, 42; out 0xf4; mov dx, 0x600; mov al, 0x34; out
      load(
        vm,
        [
          0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0xb0, 0x2a, 0xe6, 0xf4, 0xba, 0x00, 0x06, 0xb0, 0x34,
          0xee, 0xf4,
        ],
      );
      vm.start();
      const events = await eventsUntil(vm, "power_off");
      expect(events.map((event) => [event.kind, event.value])).toEqual([
        ["debug", 42],
        ["power_off", 0],
      ]);
      expect(readFileSync(path, "utf8")).toBe("A");
      expect(vm.vcpuStats(0).exitsPio).toBe(3);
      vm.stop();
      vm.stop();
    } finally {
      vm.destroy();
      closeSync(fd);
      rmSync(directory, { recursive: true });
    }
    expect(() => vm.start()).toThrow("The VM was destroyed");
  });

  test("a vCPU that cannot go on says at which instruction", async () => {
    const vm = Vm.create({ ...CONFIG, memoryBytes: 1 << 20, lowLimit: 0x80000 });
    try {
      // mov ax, 0xf000; mov ds, ax; xor bx, bx; fnstenv [bx]: no RAM, and KVM cannot emulate it
      load(vm, [0xb8, 0x00, 0xf0, 0x8e, 0xd8, 0x31, 0xdb, 0xd9, 0x37, 0xf4]);
      vm.start();
      const event = (await eventsUntil(vm, "vcpu_failed")).at(-1);
      expect(Buffer.from(event?.bytes ?? []).toString("hex")).toStartWith("d937f4");
      expect(event?.bytes.length).toBe(16);
      expect(() => vm.getState(0, "regs")).not.toThrow();
    } finally {
      vm.destroy();
    }
  });

  test("devices get indices in order and refuse what cannot be", () => {
    const directory = mkdtempSync(join(tmpdir(), "lv-ffi-"));
    const vm = Vm.create(CONFIG);
    try {
      expect(vm.addRng({ gsi: 5 })).toBe(0);
      const path = join(directory, "vsock.sock");
      expect(vm.addVsock({ gsi: 6, guestCid: 3, path })).toBe(1);
      expect(() => vm.addRng({ gsi: 5 })).toThrow("EEXIST");
      expect(() => vm.addRng({ gsi: 24 })).toThrow("lv_device_add rng: EINVAL");
      const disk = {
        gsi: 7,
        fd: 9999,
        readOnly: true,
        bytes: 4096,
        id: "root",
        queues: 1,
        limit: {},
      };
      expect(() => vm.addBlk(disk)).toThrow("lv_device_add blk: EBADF");
      expect(() => vm.addBlk({ ...disk, id: "x".repeat(21) })).toThrow(RangeError);
      expect(vm.deviceStats(0).requests).toBe(0);
      expect(() => vm.deviceStats(2)).toThrow("ENOENT");
    } finally {
      vm.destroy();
      rmSync(directory, { recursive: true });
    }
  });

  test("memory comes in windows of at most 2 GiB, around the hole", () => {
    const vm = Vm.create({ ...CONFIG, memoryBytes: 6 * GIB });
    try {
      expect(vm.regions.map(({ gpa, len }) => [gpa / GIB, len / GIB])).toEqual([
        [0, 2],
        [2, 1],
        [4, 2],
        [6, 1],
      ]);
      for (const { len, view } of vm.regions) expect(view.byteLength).toBe(len);
    } finally {
      vm.destroy();
    }
  });

  test("CPUID and MSRs make the round trip to KVM", () => {
    const vm = Vm.create(CONFIG);
    try {
      const cpuid = vm.supportedCpuid();
      expect(cpuid.byteLength % 40).toBe(0);
      expect(cpuid.byteLength).toBeGreaterThan(400);
      vm.setCpuid(0, cpuid);
      const msr = new DataView(new ArrayBuffer(16));
      msr.setUint32(0, 0x174, true); // SYSENTER_CS
      vm.setMsrs(0, new Uint8Array(msr.buffer));
      msr.setUint32(0, 0xdeadbeef, true);
      expect(() => vm.setMsrs(0, new Uint8Array(msr.buffer))).toThrow(SystemError);
      expect(() => vm.setCpuid(1, cpuid)).toThrow("EINVAL");
      expect(() => vm.setState(0, "regs", new Uint8Array(8))).toThrow("EINVAL");
    } finally {
      vm.destroy();
    }
  });
});
