/** Machines that start in a process of the pool, in jails, on LEVERET_DEV_KERNEL. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { MachineRun, RunRequest } from "../../agent/runtime/driver.ts";
import { Jail, VMM_PROGRAM } from "../../agent/runtime/jail.ts";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { isPoolName } from "../../agent/runtime/pool.ts";
import { listProcesses } from "../../agent/runtime/proc.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { OutputLogReader } from "../../lib/output-log-reader.ts";
import { MachineId } from "../../proto/ids.ts";
import { until } from "../kit/until.ts";
import { DEV_KERNEL_ARGS, TemporaryDirectory, writeBusyboxImage, writePlainInitrd } from "./kit.ts";

const TIMEOUT_MS = 40_000;
const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";

function whySkipped(): string {
  if (kernelPath === "") return "LEVERET_DEV_KERNEL is not set";
  if (process.getuid?.() !== 0) return "not root";
  const needed = ["/dev/kvm", "/bin/busybox", "/usr/bin/mksquashfs", VMM_PROGRAM];
  return needed.find((path) => !existsSync(path)) ?? "";
}
const reason = whySkipped();
if (reason !== "") process.stderr.write(`tests/vm/pool: skipped: ${reason}\n`);
const guestTest = test.skipIf(reason !== "");

let temporary: TemporaryDirectory;
let machines = "";
let squashfsPath = "";
let initrdPath = "";
beforeAll(() => {
  temporary = new TemporaryDirectory();
  if (reason !== "") return;
  machines = temporary.make("machines");
  squashfsPath = writeBusyboxImage(temporary.path, ["sh", "sleep", "cat", "echo", "ip"]);
  initrdPath = writePlainInitrd(join(temporary.path, "initrd"));
});
afterAll(() => temporary[Symbol.dispose]());

const request = (machineId: string, incarnation: number, script: string): RunRequest => ({
  machineId,
  incarnation,
  cpus: 1,
  memoryMib: 128,
  diskMib: 16,
  kernelPath,
  initrdPath,
  kernelArgs: DEV_KERNEL_ARGS,
  squashfsPath,
  process: {
    argv: ["/bin/sh", "-c", script],
    env: ["PATH=/bin"],
    cwd: "/",
    user: "",
    stopSignal: 9,
  },
  hostname: "guest",
});

const makeDriver = (poolSize: number, passt: string | null = null): KvmDriver =>
  new KvmDriver({
    passt,
    dir: machines,
    clock: systemClock,
    log: silentLog(),
    jail: new Jail({ dir: machines, uidBase: 1_920_000_000, cgroups: null }),
    poolSize,
  });

const start = (driver: KvmDriver, it: RunRequest): Promise<MachineRun> =>
  driver.start(it, new AbortController().signal);

/** The directory that the process was started with. */
function firstDirectory(pid: number): string {
  const argv = listProcesses().find((one) => one.pid === pid)?.argv ?? [];
  return basename(argv.at(-1) ?? "");
}

const waiting = (): string[] => [
  ...readdirSync(machines).filter(isPoolName),
  ...listProcesses().flatMap(({ argv }) =>
    argv.at(-1)?.startsWith(`${machines}/pol_`) === true ? [argv.at(-1) ?? ""] : [],
  ),
];

function output(driver: KvmDriver, machineId: string): string {
  const reader = new OutputLogReader(driver.outputPath(machineId), 0);
  const text = reader.read(1 << 20).map(({ data }) => Buffer.from(data).toString());
  reader.close();
  return text.join("");
}

guestTest(
  "a first start takes a process that waits; a restart keeps what is on its disk",
  async () => {
    const driver = makeDriver(2);
    const [cold, warm] = [MachineId.create(), MachineId.create()];
    const first = await start(driver, request(cold, 1, "sleep 1000"));
    expect(firstDirectory(first.status.pid)).toBe(cold);
    await until("two wait", () => driver.warm === 2);
    const second = await start(driver, request(warm, 1, "echo one; echo kept > /note; sleep 1000"));
    expect(firstDirectory(second.status.pid)).toMatch(/^pol_/);
    await until("it runs", () => second.status.phase === "running");
    expect(second.status.machineId).toBe(warm);
    await until("it spoke", () => output(driver, warm).includes("one"));
    const uids = [cold, warm].map((id) => statSync(join(machines, id)).uid);
    expect(new Set(uids).size).toBe(2);
    expect(readFileSync(`/proc/${second.status.pid}/status`, "utf8")).toContain(
      `Uid:\t${uids[1]}\t${uids[1]}`,
    );
    // The image is shared with others: it stays the host's.
    expect(statSync(squashfsPath)).toMatchObject({ uid: 0, mode: 0o100644 });
    await until("others wait", () => driver.warm === 2);
    driver.close();
    expect(readdirSync(machines).filter(isPoolName)).toEqual([]);

    const next = makeDriver(0);
    const found = await next.find();
    const run = found.find(({ machineId }) => machineId === warm)?.run;
    expect(run?.status.phase).toBe("running");
    await run?.stop(9, 1_000);
    expect(await run?.ended).toMatchObject({ phase: "ended", exitCode: 137 });
    const third = await start(next, request(warm, 2, "cat /note"));
    expect(await third.ended).toMatchObject({ exitCode: 0 });
    expect(output(next, warm)).toBe("one\nkept\n");
    for (const id of [cold, warm]) await next.destroy(id);
    next.close();
    expect(readdirSync(machines)).toEqual([]);
    await until("none waits", () => waiting().length === 0);
  },
  TIMEOUT_MS,
);

guestTest(
  "what a pool that crashed left is removed; another kernel empties the pool",
  async () => {
    const driver = makeDriver(1);
    const id = MachineId.create();
    const run = await start(driver, request(id, 1, "sleep 1000"));
    await until("one waits", () => driver.warm === 1);
    // As an agent that starts after a crash sees it.
    const next = makeDriver(0);
    await next.find();
    await until("none waits", () => waiting().length === 0);
    expect(run.status.phase).not.toBe("ended");
    // The driver takes the one that died for none: the start is a cold one.
    const other = MachineId.create();
    const again = await start(driver, request(other, 1, "exit 4"));
    expect(await again.ended).toMatchObject({ exitCode: 4 });
    await until("one waits again", () => driver.warm === 1);
    const copy = join(temporary.path, "initrd-2");
    await Bun.write(copy, Bun.file(initrdPath));
    const third = MachineId.create();
    const last = await start(driver, { ...request(third, 1, "exit 5"), initrdPath: copy });
    expect(await last.ended).toMatchObject({ exitCode: 5 });
    for (const one of [id, other, third]) await driver.destroy(one);
    driver.close();
    next.close();
    await until("none waits", () => waiting().length === 0);
  },
  TIMEOUT_MS,
);

const passt = Bun.which("passt");
test.skipIf(reason !== "" || passt === null)(
  "a machine out of the pool has its network",
  async () => {
    const driver = makeDriver(1, passt);
    const ids = [MachineId.create(), MachineId.create()];
    for (const id of ids) {
      const run = await start(driver, request(id, 1, "ip addr show eth0; exit 6"));
      const out = firstDirectory(run.status.pid);
      expect(isPoolName(out)).toBe(id === ids[1]);
      expect(await run.ended).toMatchObject({ phase: "ended", exitCode: 6 });
      expect(output(driver, id)).toContain("inet 10.0.2.15/24");
      await until("one waits", () => driver.warm === 1);
    }
    for (const id of ids) await driver.destroy(id);
    driver.close();
    await until("none waits", () => waiting().length === 0);
  },
  TIMEOUT_MS,
);
