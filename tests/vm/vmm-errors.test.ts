/**
 * A machine that cannot be: exit code, last error and status.json of the VMM
 * process. Only what needs the VM itself needs /dev/kvm.
 */
import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { VMM_PROGRAM } from "../../agent/runtime/jail.ts";
import { VMM_EXIT, type VmmSpec } from "../../proto/vmm.ts";
import { makeSpec, TemporaryDirectory, VmmProcess, writePlainInitrd } from "./kit.ts";

async function failure(directory: string, spec: VmmSpec | string) {
  await using vmm = new VmmProcess(directory, spec);
  const { code, lastError, status } = await vmm.ended();
  expect(readdirSync(directory).filter((name) => name.includes("sock"))).toEqual([]);
  expect(status.phase).toBe("ended");
  expect(status.reason).toBe(lastError?.reason ?? "INTERNAL");
  expect(status.message).toBe(lastError?.message ?? "");
  return { code, ...lastError };
}

test("a spec that is no JSON, or has a wrong field", async () => {
  using temporary = new TemporaryDirectory();
  expect(await failure(temporary.make("a"), "{")).toMatchObject({
    code: VMM_EXIT.specInvalid,
    reason: "CONFIG_INVALID",
    message: expect.stringContaining("spec.json is not JSON") as string,
  });
  expect(await failure(temporary.make("b"), makeSpec({ cpus: 99 }))).toEqual({
    code: VMM_EXIT.specInvalid,
    reason: "CONFIG_INVALID",
    message: "spec.json: cpus must be a whole number from 1 to 32, not 99",
  });
});

test("a kernel that is missing, is none, or is broken", async () => {
  using temporary = new TemporaryDirectory();
  expect(await failure(temporary.make("a"), makeSpec())).toEqual({
    code: VMM_EXIT.kernelInvalid,
    reason: "KERNEL_NOT_FOUND",
    message: "Cannot open kernel /nonexistent/vmlinux: no such file",
  });
  const text = join(temporary.path, "kernel.txt");
  writeFileSync(text, "this is no kernel\n".repeat(1000));
  expect(await failure(temporary.make("b"), makeSpec({ kernelPath: text }))).toEqual({
    code: VMM_EXIT.kernelInvalid,
    reason: "KERNEL_INVALID",
    message: `${text} is not a kernel: it has neither an ELF nor a bzImage header`,
  });
  expect(await failure(temporary.make("c"), makeSpec({ kernelPath: "/bin/ls" }))).toMatchObject({
    code: VMM_EXIT.kernelInvalid,
    reason: "KERNEL_INVALID",
    message: expect.stringContaining(
      "/bin/ls is not a usable kernel: its ELF type is not EXEC",
    ) as string,
  });
});

/** A segment at 1 MiB that only halts: enough to get past the kernel's checks. */
function writeHaltingKernel(path: string): string {
  const file = Buffer.alloc(0x1100);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18);
  file.writeBigUInt64LE(0x100000n, 24);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64);
  file.writeBigUInt64LE(0x1000n, 64 + 8);
  file.writeBigUInt64LE(0x100000n, 64 + 24);
  file.writeBigUInt64LE(0x100n, 64 + 32);
  file.writeBigUInt64LE(0x100n, 64 + 40);
  file.set([0xf4, 0xeb, 0xfd], 0x1000); // hlt; jmp to it
  writeFileSync(path, file);
  return path;
}

test("a disk or an initrd that is missing or empty, memory that is too small", async () => {
  using temporary = new TemporaryDirectory();
  const kernelPath = writeHaltingKernel(join(temporary.path, "kernel"));
  const empty = join(temporary.path, "empty");
  writeFileSync(empty, "");
  const disk = (path: string): Partial<VmmSpec> => ({
    disks: [{ path, readOnly: true, id: "root" }],
  });
  const cases: [Partial<VmmSpec>, number, string, string][] = [
    [
      disk("/no/disk"),
      VMM_EXIT.specInvalid,
      "CONFIG_INVALID",
      "Cannot open disk /no/disk: no such file",
    ],
    [disk(empty), VMM_EXIT.specInvalid, "CONFIG_INVALID", `Cannot open disk ${empty}: it is empty`],
    [disk("/dev/null"), VMM_EXIT.specInvalid, "CONFIG_INVALID", "no file and no block device"],
    [
      { initrdPath: "/no/initrd" },
      VMM_EXIT.kernelInvalid,
      "KERNEL_NOT_FOUND",
      "Cannot open initrd /no/initrd: no such file",
    ],
    [{ memoryMib: 1 }, VMM_EXIT.specInvalid, "CONFIG_INVALID", "1 MiB of memory are too small"],
  ];
  for (const [index, [change, code, reason, message]] of cases.entries()) {
    const found = await failure(temporary.make(`${index}`), makeSpec({ kernelPath, ...change }));
    expect(found).toMatchObject({ code, reason });
    expect(found.message).toContain(message);
  }
});

test("arguments that are none of its own", async () => {
  const main = join(import.meta.dir, "../../agent/vmm/main.ts");
  const run = Bun.spawnSync([process.execPath, main], { stderr: "pipe" });
  expect(run.exitCode).toBe(VMM_EXIT.usage);
  expect(run.stderr.toString()).toContain("usage: bun agent/vmm/main.ts <machine directory>");
});

/** As a user who may not open /dev/kvm; needs root to become one, and a KVM to be refused. */
const canBecomeNobody =
  process.getuid?.() === 0 && existsSync("/dev/kvm") && Bun.which("setpriv") !== null;
test.skipIf(!canBecomeNobody)("/dev/kvm without permission is KVM_MISSING", () => {
  using temporary = new TemporaryDirectory();
  const kernelPath = writeHaltingKernel(join(temporary.path, "kernel"));
  const directory = temporary.make("machine");
  writeFileSync(join(directory, "spec.json"), JSON.stringify(makeSpec({ kernelPath })));
  for (const path of [temporary.path, directory]) chmodSync(path, 0o777);
  // Copies: nobody may not be let into the directory that this checkout is in.
  const copy = (source: string): string => {
    const target = join(temporary.path, basename(source));
    copyFileSync(source, target);
    chmodSync(target, 0o755);
    return target;
  };
  const shim = copy(join(import.meta.dir, "../../native/out/libleveret.so"));
  const drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
  const run = Bun.spawnSync([...drop, copy(VMM_PROGRAM), directory], {
    stderr: "pipe",
    cwd: temporary.path,
    env: { ...process.env, LEVERET_SHIM: shim },
  });
  const said = run.stderr.toString();
  expect({ code: run.exitCode, said }).toMatchObject({ code: VMM_EXIT.kvmMissing });
  expect(said).toContain(
    '{"reason":"KVM_MISSING","message":"Cannot open /dev/kvm: permission denied',
  );
});

const kvm = existsSync("/dev/kvm");
if (!kvm) process.stderr.write("tests/vm/vmm-errors: partly skipped: there is no /dev/kvm\n");

test.skipIf(!kvm)("a guest whose init never answers", async () => {
  using temporary = new TemporaryDirectory();
  const kernelPath = writeHaltingKernel(join(temporary.path, "kernel"));
  const directory = temporary.make("machine");
  const found = await failure(directory, makeSpec({ kernelPath, initTimeoutMs: 300 }));
  expect(found).toEqual({
    code: VMM_EXIT.guestInitTimeout,
    reason: "GUEST_INIT_TIMEOUT",
    message: "The guest's init did not answer within 0.3 s",
  });
});

test.skipIf(!kvm)("a guest that crashes at once", async () => {
  using temporary = new TemporaryDirectory();
  const kernelPath = writeHaltingKernel(join(temporary.path, "kernel"));
  const bytes = Buffer.from(await Bun.file(kernelPath).arrayBuffer());
  bytes.set([0x0f, 0x0b], 0x1000); // ud2 without an interrupt table
  writeFileSync(kernelPath, bytes);
  const found = await failure(temporary.make("machine"), makeSpec({ kernelPath }));
  expect(found).toMatchObject({ code: VMM_EXIT.guestFault, reason: "GUEST_FAULT" });
  expect(found.message).toContain("The guest reset itself or crashed");
});

test.skipIf(!kvm)("a kill or a SIGTERM during booting ends the machine in order", async () => {
  using temporary = new TemporaryDirectory();
  const kernelPath = writeHaltingKernel(join(temporary.path, "kernel"));
  for (const how of ["kill", "stop", "SIGTERM"] as const) {
    await using vmm = new VmmProcess(temporary.make(how), makeSpec({ kernelPath }));
    const client = await vmm.control();
    await client.until(() => client.statuses.length > 0);
    if (how === "SIGTERM") vmm.kill(how);
    else client.send({ id: 7, action: how, signal: 0, timeoutMs: 60_000 });
    expect(await client.reached("ended")).toBe(true);
    expect(await vmm.ended()).toMatchObject({
      code: VMM_EXIT.ended,
      lastError: null,
      status: { phase: "ended", exitCode: 137, exitSignal: 9 },
    });
    if (how !== "SIGTERM") expect(client.replies).toEqual([{ id: 7, ok: true }]);
  }
});

test.skipIf(!kvm)(
  "a request that is none is answered, and stale sockets do not matter",
  async () => {
    using temporary = new TemporaryDirectory();
    const kernelPath = writeHaltingKernel(join(temporary.path, "kernel"));
    const directory = temporary.make("machine");
    const initrdPath = writePlainInitrd(join(temporary.path, "initrd"));
    {
      await using vmm = new VmmProcess(directory, makeSpec({ kernelPath, initrdPath }));
      await vmm.control();
      vmm.kill("SIGKILL");
      await vmm.ended();
      expect(existsSync(join(directory, "control.sock"))).toBe(true);
      expect(vmm.status().phase).toBe("booting");
    }
    await using vmm = new VmmProcess(
      directory,
      makeSpec({ kernelPath, initrdPath, incarnation: 2 }),
    );
    let client = await vmm.control();
    if (!(await client.until(() => client.statuses.length > 0))) client = await vmm.control();
    client.send({ id: 1, action: "dance" });
    client.send({ id: 2, action: "signal", signal: 15 });
    await client.until(() => client.replies.length === 2);
    expect(client.replies).toMatchObject([
      { id: 0, ok: false, reason: "BAD_REQUEST" },
      { id: 2, ok: false, reason: "STATE_CONFLICT" },
    ]);
    expect(client.statuses[0]).toMatchObject({ pid: vmm.pid, incarnation: 2, phase: "booting" });
    client.send({ id: 3, action: "kill" });
    expect((await vmm.ended()).status.exitCode).toBe(137);
  },
);
