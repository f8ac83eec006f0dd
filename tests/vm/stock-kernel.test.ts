/**
 * Debian's kernel under the VMM, with what only real (or nested) KVM can do: many
 * vCPUs, memory beyond the 3 GiB hole, the bzImage itself. Run in the lab:
 *   LEVERET_GUEST_KERNEL=vmlinux LEVERET_GUEST_INITRD=initramfs.cpio \
 *   [LEVERET_GUEST_BZIMAGE=vmlinuz] bun test --timeout 300000 tests/vm/stock-kernel.test.ts
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { VMM_FILES, type VmmSpec } from "../../proto/vmm.ts";
import { makeSpec, TemporaryDirectory, VmmProcess, writeBusyboxImage } from "./kit.ts";

const kernelPath = process.env["LEVERET_GUEST_KERNEL"] ?? "";
const initrdPath = process.env["LEVERET_GUEST_INITRD"] ?? "";
const bzImagePath = process.env["LEVERET_GUEST_BZIMAGE"] ?? "";
const missing =
  kernelPath === "" || initrdPath === ""
    ? "LEVERET_GUEST_KERNEL and LEVERET_GUEST_INITRD are not set"
    : (["/dev/kvm", "/bin/busybox", "/usr/bin/mksquashfs"].find((path) => !existsSync(path)) ?? "");
if (missing !== "") process.stderr.write(`tests/vm/stock-kernel: skipped: ${missing}\n`);
const guestTest = test.skipIf(missing !== "");

let temporary: TemporaryDirectory;
let rootfs = "";
beforeAll(() => {
  temporary = new TemporaryDirectory();
  const applets = [
    "sh",
    "cat",
    "grep",
    "nproc",
    "echo",
    "uname",
    "wc",
    "seq",
    "mkdir",
    "dd",
    "sync",
  ];
  if (missing === "") rootfs = writeBusyboxImage(temporary.path, applets);
});
afterAll(() => temporary[Symbol.dispose]());

/** Standard output of a script in a guest that ends with 0. */
async function guestSays(name: string, script: string, change: Partial<VmmSpec>): Promise<string> {
  const spec = makeSpec({
    kernelPath,
    initrdPath,
    kernelArgs: "",
    initTimeoutMs: 240_000,
    disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
    ...change,
  });
  const process_ = { ...spec.process, argv: ["/bin/sh", "-c", script], env: ["PATH=/bin"] };
  await using vmm = new VmmProcess(temporary.make(name), { ...spec, process: process_ });
  const { status } = await vmm.ended();
  const console = readFileSync(join(vmm.directory, VMM_FILES.console), "utf8").slice(-1_000);
  expect({ status, console }).toMatchObject({ status: { phase: "ended", exitCode: 0 } });
  process.stderr.write(`tests/vm/stock-kernel: ${name}: booted in ${status.bootUs ?? 0} µs\n`);
  return vmm.output().join("").slice(2);
}

for (const cpus of [1, 2, 8])
  guestTest(`${cpus} vCPUs come up, one core each, in one package`, async () => {
    const said = await guestSays(
      `cpus${cpus}`,
      "nproc; grep -c ^processor /proc/cpuinfo; grep '^core id' /proc/cpuinfo; cat /sys/devices/system/cpu/cpu0/topology/package_cpus_list",
      { cpus, memoryMib: 256 },
    );
    const lines = said.trim().split("\n");
    expect(lines.slice(0, 2)).toEqual([`${cpus}`, `${cpus}`]);
    expect(new Set(lines.slice(2, -1)).size).toBe(cpus);
    expect(lines.at(-1)).toBe(cpus === 1 ? "0" : `0-${cpus - 1}`);
  });

guestTest("the baseline template shows what every host has, and nothing else", async () => {
  const said = await guestSays("baseline", "grep -m1 ^flags /proc/cpuinfo; nproc", {
    cpus: 2,
    cpuTemplate: "baseline",
    memoryMib: 256,
  });
  const flags = new Set(said.split("\n")[0]?.split(" "));
  for (const name of ["avx2", "bmi2", "fma", "popcnt", "xsaveopt"]) expect(flags).toContain(name);
  for (const name of ["svm", "vaes", "pku", "sha_ni", "constant_tsc", "xsavec", "clwb"])
    expect(flags).not.toContain(name);
  expect(said).toContain("\n2\n");
});

guestTest("memory goes on beyond the 3 GiB hole", async () => {
  const said = await guestSays("memory", "grep -E 'MemTotal' /proc/meminfo; cat /proc/iomem", {
    memoryMib: 5 * 1024,
  });
  const kib = Number(/MemTotal:\s+(\d+)/.exec(said)?.[1]);
  expect(kib).toBeGreaterThan(4.8 * 2 ** 20);
  expect(said).toContain("System RAM");
});

guestTest("the guest knows its devices: disk, entropy, clock", async () => {
  const said = await guestSays(
    "devices",
    "cat /sys/block/vda/serial; echo; cat /sys/block/vda/ro; cat /sys/class/misc/hw_random/rng_current; " +
      "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
    {},
  );
  expect(said.trim().split("\n")).toEqual(["rootfs", "1", "virtio_rng.0", "kvm-clock"]);
});

test.skipIf(missing !== "" || bzImagePath === "")("a bzImage boots as it is", async () => {
  const said = await guestSays("bzimage", "uname -r; nproc", {
    kernelPath: bzImagePath,
    cpus: 2,
    memoryMib: 256,
  });
  expect(said).toMatch(/^6\.\d+\.\d+.*\n2\n$/);
});
