/** hvc0, the console that costs no exit a byte, on real Linux (see dev-kernel.test.ts). */
import { afterAll, beforeAll, expect } from "bun:test";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { CONSOLE_LIMIT_BYTES } from "../../agent/vmm/machine.ts";
import { VMM_FILES, type VmmMetrics } from "../../proto/vmm.ts";
import {
  DEV_KERNEL_ARGS,
  makeSpec,
  TemporaryDirectory,
  VmmProcess,
  writeBusyboxImage,
  writePlainInitrd,
} from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const { kernelPath, missing, guestTest } = linuxGuests("console", [], "development");

const temporary = new TemporaryDirectory();
let rootfs = "";
let initrdPath = "";
beforeAll(() => {
  if (missing !== "") return;
  rootfs = writeBusyboxImage(temporary.path, ["sh", "cat", "dd", "sleep"]);
  initrdPath = writePlainInitrd(join(temporary.path, "initrd"));
});
afterAll(() => temporary[Symbol.dispose]());

function start(script: string, consoleArgs: string): VmmProcess {
  const spec = makeSpec({
    kernelPath,
    initrdPath,
    kernelArgs: `${DEV_KERNEL_ARGS} ${consoleArgs}`,
    disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
    process: { argv: ["/bin/sh", "-c", script], env: [], cwd: "/", user: "", stopSignal: 9 },
  });
  return new VmmProcess(temporary.make(`m${made++}`), spec);
}
let made = 0;

const said = (vmm: VmmProcess): string =>
  readFileSync(join(vmm.directory, VMM_FILES.console), "utf8");

async function metricsOf(vmm: VmmProcess): Promise<VmmMetrics> {
  const client = await vmm.control();
  await client.reached("running");
  client.send({ id: 1, action: "metrics" });
  await client.until(() => client.replies.length === 1);
  const [reply] = client.replies;
  client.send({ id: 2, action: "kill" });
  await vmm.exited;
  if (reply?.ok !== true || reply.metrics === undefined) throw new Error(JSON.stringify(reply));
  return reply.metrics;
}

guestTest("init, kernel and processes speak on hvc0 when the kernel is told to", async () => {
  const script = "cat /proc/consoles; echo to the console > /dev/hvc0";
  await using vmm = start(script, "console=hvc0 leveret.hello");
  expect((await vmm.ended()).status.exitCode).toBe(0);
  expect(vmm.output().join("")).toContain("hvc0");
  expect(vmm.output().join("")).not.toContain("ttyS0");
  expect(said(vmm)).toContain("leveret-init ");
  expect(said(vmm)).toContain("to the console");
});

guestTest("a kernel that panics late is quoted from hvc0", async () => {
  await using vmm = start("true", "console=hvc0 init=/x rdinit=/no/such/init");
  const { status } = await vmm.ended();
  expect(status.reason).toBe("GUEST_FAULT");
  expect(status.message).toContain("Kernel panic - not syncing");
});

guestTest("a boot on hvc0 takes no exit for a port but the last ones", async () => {
  const pio: number[] = [];
  for (const consoleArgs of ["", "console=hvc0"]) {
    await using vmm = start("exec sleep 1000", consoleArgs);
    const { vcpus, devices } = await metricsOf(vmm);
    pio.push(vcpus[0]?.exitsPio ?? Number.NaN);
    expect(devices.some(({ kind }) => kind === "console")).toBe(consoleArgs !== "");
  }
  expect(pio[0]).toBeGreaterThan(100);
  expect(pio[1]).toBeLessThan(10);
});

guestTest("a flood on hvc0 ends at the console's limit and harms nothing", async () => {
  const flood = "dd if=/dev/zero of=/dev/hvc0 bs=64k count=64 && echo done";
  await using vmm = start(flood, "console=hvc0");
  expect((await vmm.ended()).status.exitCode).toBe(0);
  expect(vmm.output().join("")).toContain("done");
  expect(statSync(join(vmm.directory, VMM_FILES.console)).size).toBe(CONSOLE_LIMIT_BYTES);
});
