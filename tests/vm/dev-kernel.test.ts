/**
 * Real Linux on /dev/kvm, whatever KVM it is: runs when LEVERET_DEV_KERNEL names a
 * vmlinux with its drivers built in. What disks, networks, vsock and the balloon do is shown
 * in the lab, too, on Debian's kernel (linux-guests.ts).
 */
import { afterAll, beforeAll, expect } from "bun:test";
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { missingForBaseline } from "../../agent/vmm/cpu-baseline.ts";
import { type CpuidEntry, decodeCpuid } from "../../agent/vmm/cpuid.ts";
import { LAYOUT } from "../../agent/vmm/memory-map.ts";
import { Vm } from "../../native/ffi.ts";
import {
  VMM_EXIT,
  VMM_FILES,
  type VmmExpected,
  type VmmMetrics,
  type VmmReply,
  type VmmSpec,
} from "../../proto/vmm.ts";
import {
  DEV_KERNEL_ARGS,
  makeSpec,
  TemporaryDirectory,
  VmmProcess,
  writeBusyboxImage,
  writePlainInitrd,
} from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const { kernelPath, missing, guestTest } = linuxGuests("dev-kernel", [], "development");

let temporary: TemporaryDirectory;
let rootfs = "";
let initrdPath = "";
let made = 0;
beforeAll(() => {
  temporary = new TemporaryDirectory();
  if (missing !== "") return;
  const applets = [
    "sh",
    "cat",
    "echo",
    "env",
    "id",
    "pwd",
    "sleep",
    "hostname",
    "seq",
    "kill",
    "ls",
  ];
  rootfs = writeBusyboxImage(temporary.path, [...applets, "dd", "md5sum", "mount", "reboot"]);
  initrdPath = writePlainInitrd(join(temporary.path, "initrd"));
});
afterAll(() => temporary[Symbol.dispose]());

function start(
  script: string,
  process_: Partial<VmmSpec["process"]> = {},
  change: Partial<VmmSpec> = {},
): VmmProcess {
  made += 1;
  const spec = makeSpec({
    kernelPath,
    initrdPath,
    disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
    ...change,
  });
  const argv = ["/bin/sh", "-c", script];
  const env = ["PATH=/bin", "COLOUR=blue"];
  return new VmmProcess(temporary.make(`m${made}`), {
    ...spec,
    process: { ...spec.process, argv, env, ...process_ },
  });
}

guestTest(
  "a process runs with its env, cwd, user and host name; its exit code comes out",
  async () => {
    const script = 'echo "$COLOUR"; pwd; id; hostname; echo "no good" >&2; exit 7';
    await using vmm = start(script, { cwd: "/made/here", user: "web" }, { hostname: "box" });
    const { code, lastError, status } = await vmm.ended();
    expect({ code, lastError }).toEqual({ code: VMM_EXIT.ended, lastError: null });
    expect(status).toMatchObject({ phase: "ended", exitCode: 7 });
    expect(status.exitSignal).toBeUndefined();
    expect(status.bootUs).toBeGreaterThan(10_000);
    expect(status.startedAtMs).toBeLessThanOrEqual(status.endedAtMs ?? 0);
    const output = vmm.output();
    expect(output.filter((part) => part.startsWith("1:")).join("")).toBe(
      "1:blue\n/made/here\nuid=33(web) gid=33(web) groups=33(web),44(extra)\nbox\n",
    );
    expect(vmm.output().filter((part) => part.startsWith("2:"))).toEqual(["2:no good\n"]);
    const left = readdirSync(vmm.directory).filter((name) => name.includes("sock"));
    expect(left).toEqual([]);
  },
);

guestTest("much output arrives whole and in order", async () => {
  await using vmm = start("seq 1 60000", {}, { outputLimitBytes: 4 << 20 });
  expect((await vmm.ended()).status.exitCode).toBe(0);
  const wanted = Array.from({ length: 60_000 }, (_, i) => `${i + 1}\n`).join("");
  expect(vmm.output().join("") === `1:${wanted}`).toBe(true);
});

guestTest("stop sends the stop signal; a process that handles it ends by itself", async () => {
  const script = 'trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 0.05; done';
  await using vmm = start(script);
  const client = await vmm.control();
  expect(await client.reached("running")).toBe(true);
  await outputHas(vmm, "ready");
  client.send({ id: 1, action: "stop", signal: 0, timeoutMs: 20_000 });
  expect(await client.reached("ended")).toBe(true);
  const phases = new Set(client.statuses.map((status) => status.phase));
  expect(phases).toEqual(phases.union(new Set(["running", "stopping", "ended"] as const)));
  expect((await vmm.ended()).status).toMatchObject({ exitCode: 3 });
  // The shell may remark on stderr that its sleep was signalled, too.
  expect(stdout(vmm)).toBe("ready\nbye\n");
});

guestTest("a process that ignores the stop signal is killed when its time is over", async () => {
  await using vmm = start('trap "" TERM; echo ready; while :; do sleep 0.05; done');
  const client = await vmm.control();
  await outputHas(vmm, "ready");
  client.send({ id: 1, action: "stop", signal: 15, timeoutMs: 300 });
  expect((await vmm.ended()).status).toMatchObject({ exitCode: 137, exitSignal: 9 });
});

guestTest("a signal reaches the process, and one that kills it is reported", async () => {
  await using vmm = start("echo ready; exec sleep 1000");
  const client = await vmm.control();
  await outputHas(vmm, "ready");
  client.send({ id: 5, action: "signal", signal: 10 });
  const { status } = await vmm.ended();
  expect(client.replies).toEqual([{ id: 5, ok: true }]);
  expect(status).toMatchObject({ exitCode: 138, exitSignal: 10 });
});

guestTest("kill ends a running machine at once", async () => {
  await using vmm = start("echo ready; exec sleep 1000");
  const client = await vmm.control();
  await outputHas(vmm, "ready");
  client.send({ id: 1, action: "kill" });
  expect((await vmm.ended()).status).toMatchObject({ exitCode: 137, exitSignal: 9 });
});

guestTest("reset ends a machine at once, without an exit code", async () => {
  await using vmm = start("echo ready; exec sleep 1000");
  const client = await vmm.control();
  await outputHas(vmm, "ready");
  client.send({ id: 1, action: "reset" });
  const { code, status } = await vmm.ended();
  expect(code).toBe(VMM_EXIT.ended);
  expect(status).toMatchObject({ phase: "ended", message: "The machine was reset" });
  expect([status.exitCode, status.reason]).toEqual([undefined, undefined]);
});

guestTest("a guest finds its power button, and its kernel takes both event lines", async () => {
  await using vmm = start("cat /sys/bus/acpi/devices/PNP0C0C:00/path /proc/interrupts");
  expect((await vmm.ended()).status.exitCode).toBe(0);
  const said = stdout(vmm);
  expect(said).toContain("\\_SB_.PWRB");
  expect(said.match(/ 2[23]-edge +ACPI:Ged$/gm)).toHaveLength(2);
});

guestTest("a shutdown that comes before init does is carried out when it is there", async () => {
  await using vmm = start("echo never");
  const client = await vmm.control();
  // Its last request: refused until there is a run, which is booting then.
  let id = 0;
  while (client.replies.at(-1)?.ok !== true) {
    id += 1;
    client.send({ id, action: "shutdown", timeoutMs: 20_000 });
    await client.until(() => client.replies.length === id);
  }
  expect((await vmm.ended()).status).toMatchObject({ exitCode: 143, exitSignal: 15 });
  expect(vmm.output().join("")).not.toContain("never");
});

guestTest("what cannot be executed says so and ends as a shell's 127 and 126", async () => {
  const cases: [Partial<VmmSpec["process"]>, number | undefined, string][] = [
    [{ argv: ["/bin/nothing"] }, 127, "/bin/nothing"],
    [{ argv: ["nothing"] }, 127, "nothing"],
    [{ argv: ["/etc/passwd"] }, 126, "/etc/passwd"],
    [{ user: "nobody-here" }, undefined, "nobody-here"],
  ];
  for (const [process_, exitCode, named] of cases) {
    await using vmm = start("true", process_);
    const { code, status } = await vmm.ended();
    expect(status).toMatchObject({ phase: "ended", reason: "EXEC_FAILED" });
    expect({ code, exitCode: status.exitCode }).toEqual({ code: VMM_EXIT.ended, exitCode });
    expect(status.message).toContain(named);
  }
});

guestTest("pause holds a machine still, resume lets it go on, metrics count it", async () => {
  await using vmm = start("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done");
  const client = await vmm.control();
  await outputHas(vmm, "3\n");
  let id = 0;
  const metrics = async (): Promise<VmmMetrics> => {
    id += 1;
    client.send({ id, action: "metrics" });
    const mine = (): VmmReply | undefined => client.replies.find((reply) => reply.id === id);
    await client.until(() => mine() !== undefined);
    const reply = mine();
    if (reply?.ok !== true || reply.metrics === undefined) throw new Error(JSON.stringify(reply));
    return reply.metrics;
  };
  const phase = (): string | undefined => client.statuses.at(-1)?.phase;
  client.send({ id: 1_000, action: "pause" });
  await client.until(() => phase() === "paused");
  const before = await metrics();
  expect(before.vcpus[0]?.exitsMmio).toBeGreaterThan(0);
  expect(before.devices.map(({ kind }) => kind)).toEqual(["vsock", "rng", "balloon", "blk"]);
  expect(before.devices[0]?.bytesIn).toBeGreaterThan(0);
  const printed = vmm.output().join("").length;
  // Long enough for ten lines of a machine that is not paused.
  await Bun.sleep(100);
  expect(await metrics()).toEqual(before);
  expect(vmm.output().join("")).toHaveLength(printed);
  client.send({ id: 1_001, action: "resume" });
  await client.until(() => phase() === "running");
  const seen = vmm.output().join("").length;
  while (vmm.output().join("").length < seen + 20) await Bun.sleep(5);
  client.send({ id: 1_002, action: "shutdown", timeoutMs: 20_000 });
  expect((await vmm.ended()).status).toMatchObject({ exitCode: 143, exitSignal: 15 });
});

guestTest("a process that waits boots what it is told, or leaves with who started it", async () => {
  for (const [cpus, memoryMib] of [
    [1, 128],
    [2, 64],
  ]) {
    const directory = temporary.make(`ahead${cpus}`);
    writeFileSync(
      join(directory, VMM_FILES.pool),
      JSON.stringify({ cpus, memoryMib, kernelPath, initrdPath }),
    );
    await using vmm = new VmmProcess(directory, null);
    const client = await vmm.control();
    expect(await client.reached("waiting")).toBe(true);
    client.send({ id: 1, action: "pause" });
    await client.until(() => client.replies.length === 1);
    expect(client.replies[0]).toMatchObject({ ok: false, reason: "STATE_CONFLICT" });
    const spec = makeSpec({
      kernelPath,
      initrdPath,
      disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
      process: { argv: ["/bin/sh", "-c", "exit 9"], env: [], cwd: "/", user: "", stopSignal: 15 },
    });
    writeFileSync(join(directory, VMM_FILES.spec), JSON.stringify(spec));
    client.send({ id: 2, action: "boot" });
    const { code, status } = await vmm.ended();
    expect({ code, exitCode: status.exitCode }).toEqual({ code: VMM_EXIT.ended, exitCode: 9 });
    expect(status.entryUs).toBeLessThan(status.bootUs ?? 0);
  }
  const directory = temporary.make("deserted");
  const expected: VmmExpected = { cpus: 1, memoryMib: 64, kernelPath, initrdPath };
  writeFileSync(join(directory, VMM_FILES.pool), JSON.stringify(expected));
  await using vmm = new VmmProcess(directory, null);
  const client = await vmm.control();
  expect(await client.reached("waiting")).toBe(true);
  client.close();
  expect(await vmm.exited).toBe(VMM_EXIT.ended);
});

guestTest("a paused machine can be killed", async () => {
  await using vmm = start("echo ready; exec sleep 1000");
  const client = await vmm.control();
  await outputHas(vmm, "ready");
  client.send({ id: 1, action: "pause" });
  client.send({ id: 2, action: "kill" });
  expect((await vmm.ended()).status).toMatchObject({ exitCode: 137 });
  expect(client.statuses.map((status) => status.phase)).toContain("paused");
});

function makeDisk(name: string, format: boolean): string {
  const path = join(temporary.path, name);
  writeFileSync(path, "");
  truncateSync(path, 16 << 20);
  if (format) {
    const { exitCode } = Bun.spawnSync(["mke2fs", "-q", "-F", "-t", "ext4", path]);
    expect(exitCode).toBe(0);
  }
  return path;
}

const withScratch = (path: string): Partial<VmmSpec> => ({
  disks: [
    { path: rootfs, readOnly: true, id: "rootfs" },
    { path, readOnly: false, id: "scratch" },
  ],
});

guestTest("what a machine writes is on its scratch disk at the next start", async () => {
  const disks = withScratch(makeDisk("scratch.ext4", true));
  {
    await using vmm = start("echo kept > /note; echo over > /etc/passwd; cat /note", {}, disks);
    expect((await vmm.ended()).status.exitCode).toBe(0);
    expect(stdout(vmm)).toBe("kept\n");
  }
  await using vmm = start("cat /note /etc/passwd", {}, disks);
  expect((await vmm.ended()).status.exitCode).toBe(0);
  expect(stdout(vmm)).toBe("kept\nover\n");
});

guestTest("a scratch disk without a file system is the guest's fault", async () => {
  await using vmm = start("true", {}, withScratch(makeDisk("blank.img", false)));
  const { status, code } = await vmm.ended();
  expect(status).toMatchObject({ phase: "ended", reason: "GUEST_FAULT" });
  expect(code).toBe(VMM_EXIT.guestFault);
});

guestTest("an image that is none is the guest's fault, in its init's words", async () => {
  const path = join(temporary.path, "garbage.squashfs");
  writeFileSync(path, Buffer.alloc(1 << 20, "garbage"));
  await using vmm = start("true", {}, { disks: [{ path, readOnly: true, id: "rootfs" }] });
  const { status, lastError } = await vmm.ended();
  expect(status).toMatchObject({ phase: "ended", reason: "GUEST_FAULT" });
  expect(lastError).toEqual({ reason: "GUEST_FAULT", message: status.message ?? "" });
});

guestTest("a CPU that lacks what its template promises is refused, or boots with it", async () => {
  const missing = missingForBaseline(hostCpuid());
  await using vmm = start("true", {}, { cpuTemplate: "baseline" });
  const { code, status } = await vmm.ended();
  if (missing.length === 0) return expect(status).toMatchObject({ exitCode: 0 });
  expect({ code, reason: status.reason }).toEqual({
    code: VMM_EXIT.specInvalid,
    reason: "CONFIG_INVALID",
  });
  expect(status.message).toEndWith(`it lacks ${missing.join(", ")}`);
});

function hostCpuid(): CpuidEntry[] {
  const memoryBytes = 16 << 20;
  const { lowLimit, highBase, virtioBase: deviceBase } = LAYOUT;
  const vm = Vm.create({ vcpus: 1, memoryBytes, lowLimit, highBase, deviceBase });
  try {
    return decodeCpuid(vm.supportedCpuid());
  } finally {
    vm.destroy();
  }
}

guestTest("a kernel that panics is quoted", async () => {
  const kernelArgs = `${DEV_KERNEL_ARGS} rdinit=/no/such/init`;
  await using vmm = start("true", {}, { kernelArgs, initrdPath: null });
  const { code, status } = await vmm.ended();
  expect({ code, reason: status.reason }).toEqual({
    code: VMM_EXIT.guestFault,
    reason: "GUEST_FAULT",
  });
  expect(status.message).toContain("Kernel panic - not syncing");
  expect(readFileSync(join(vmm.directory, VMM_FILES.console), "utf8")).toContain("Kernel panic");
});

guestTest("every boot has entropy of its own", async () => {
  const seen = new Set<string>();
  for (let i = 0; i < 3; i += 1) {
    await using vmm = start("dd if=/dev/urandom bs=64 count=1 2>/dev/null | md5sum");
    expect((await vmm.ended()).status.exitCode).toBe(0);
    seen.add(vmm.output().join(""));
  }
  expect(seen.size).toBe(3);
});

function stdout(vmm: VmmProcess): string {
  const parts = vmm.output().filter((part) => part.startsWith("1:"));
  return parts.map((part) => part.slice(2)).join("");
}

/** The test's own time-out bounds it. */
async function outputHas(vmm: VmmProcess, text: string): Promise<void> {
  const path = join(vmm.directory, VMM_FILES.output);
  while (!existsSync(path) || !vmm.output().join("").includes(text)) await Bun.sleep(5);
}
