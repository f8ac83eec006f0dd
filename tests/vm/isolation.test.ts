/**
 * What a VMM process can reach from inside its jail, and what the kernel says of its
 * threads. The forbidden things are tried by tests/vm/jail-probe.ts, which is put where
 * the VMM is: same launcher, same files, same user.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { MachineRun, RunRequest } from "../../agent/runtime/driver.ts";
import { Jail, VMM_PROGRAM } from "../../agent/runtime/jail.ts";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { MachineId } from "../../proto/ids.ts";
import { VMM_EXIT, VMM_FILES } from "../../proto/vmm.ts";
import { until } from "../kit/until.ts";
import type { ProbeFound, ProbeInput } from "./jail-probe.ts";
import { whyNoKvm } from "./bare-guest.ts";
import {
  DEV_KERNEL_ARGS,
  TemporaryDirectory,
  writeBareKernel,
  writeBusyboxImage,
  writePlainInitrd,
} from "./kit.ts";

const UID_BASE = 1_910_000_000;
const TIMEOUT_MS = 30_000;
const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";

function whySkipped(): string {
  if (process.getuid?.() !== 0) return "not root";
  const needed = ["/dev/kvm", "/bin/busybox", "/usr/bin/mksquashfs", VMM_PROGRAM];
  return needed.find((path) => !existsSync(path)) ?? "";
}
const reason = whySkipped();
if (reason !== "") process.stderr.write(`tests/vm/isolation: skipped: ${reason}\n`);
const jailTest = test.skipIf(reason !== "");
const bareTest = test.skipIf(reason !== "" || whyNoKvm() !== "");
const guestTest = test.skipIf(reason !== "" || kernelPath === "");

let temporary: TemporaryDirectory;
let machines = "";
let squashfsPath = "";
let initrdPath = "";
let standInPath = "";
let probe = "";
beforeAll(async () => {
  temporary = new TemporaryDirectory();
  if (reason !== "") return;
  machines = temporary.make("machines");
  squashfsPath = writeBusyboxImage(temporary.path, ["sh", "sleep"]);
  initrdPath = writePlainInitrd(join(temporary.path, "initrd"));
  // Where nothing boots, the jail still binds a kernel: a file of its own.
  standInPath = writePlainInitrd(join(temporary.path, "kernel"));
  const entrypoints = [join(import.meta.dir, "jail-probe.ts")];
  await Bun.build({ entrypoints, outdir: temporary.path, target: "bun" });
  probe = join(temporary.path, "jail-probe.js");
});
afterAll(() => temporary[Symbol.dispose]());

const request = (machineId: string): RunRequest => ({
  machineId,
  incarnation: 1,
  cpus: 1,
  memoryMib: 128,
  diskMib: 16,
  kernelPath: kernelPath === "" ? standInPath : kernelPath,
  initrdPath,
  kernelArgs: DEV_KERNEL_ARGS,
  squashfsPath,
  process: { argv: ["/bin/sleep", "1000"], env: [], cwd: "/", user: "", stopSignal: 9 },
  hostname: "guest",
});

const makeJail = (): Jail => new Jail({ dir: machines, uidBase: UID_BASE, cgroups: null });

type Outcome = { dir: string; said: string; found: ProbeFound | null };

/** Puts the probe where the VMM of a new machine would be and waits for its end. */
async function runProbe(change: Partial<ProbeInput>): Promise<Outcome> {
  const id = MachineId.create();
  const dir = join(machines, id);
  mkdirSync(dir, { mode: 0o700 });
  writeFileSync(join(dir, VMM_FILES.scratch), "");
  const none: ProbeInput = {
    confined: false,
    read: [],
    write: [],
    sockets: [],
    tcpPort: 0,
    hostPid: 0,
    calls: [],
  };
  writeFileSync(join(dir, "probe.json"), JSON.stringify({ ...none, ...change }));
  const jail = makeJail();
  const uid = jail.claim(dir);
  const command = await jail.command(request(id), dir, uid);
  const at = command.indexOf("--");
  const bun = process.execPath;
  const files = [bun, probe].flatMap((path) => ["--file", path]);
  const argv = [...command.slice(0, at), ...files, "--", bun, probe, dir];
  const child = Bun.spawn(argv, { stdio: ["ignore", "pipe", "pipe"], env: {} });
  const pid = Number(await new Response(child.stdout).text());
  expect(pid).toBeGreaterThan(1);
  // The pipe closes when the probe, which inherited it, is gone.
  const said = await new Response(child.stderr).text();
  const result = join(dir, "found.json");
  const text = existsSync(result) ? readFileSync(result, "utf8") : "null";
  return { dir, said, found: JSON.parse(text) as ProbeFound | null };
}

jailTest(
  "the host's files, the agent, other machines and the network cannot be reached",
  async () => {
    const neighbour = join(machines, MachineId.create());
    mkdirSync(neighbour);
    writeFileSync(join(neighbour, "secret"), "of another machine");
    const journal = join(temporary.path, "journal.sqlite");
    writeFileSync(journal, "");
    const agentSocket = join(temporary.path, "agent.sock");
    const unix = Bun.listen({ unix: agentSocket, socket: { data: () => undefined } });
    const tcp = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
    const { found, said } = await runProbe({
      read: ["/etc/passwd", journal, join(neighbour, "secret"), "/proc/meminfo", "/dev/mem"],
      write: ["/new", "/dev/new", "/bin/leveret-vmm", squashfsPath],
      sockets: [agentSocket],
      tcpPort: tcp.port,
      hostPid: process.pid,
      calls: [
        { name: "setuid", number: 105, args: [0] },
        { name: "setgid", number: 106, args: [0] },
        { name: "mount", number: 165, args: ["none", "/proc", "tmpfs", 0] },
        { name: "chroot", number: 161, args: ["/dev"] },
        { name: "unshare", number: 272, args: [0x20000] },
        { name: "mknod", number: 133, args: ["device", 0o20666, 0x0101] },
        { name: "sethostname", number: 170, args: ["x", 1] },
        { name: "ptrace", number: 101, args: [16, 2] },
      ],
    });
    unix.stop(true);
    tcp.stop(true);
    expect(said).toBe("");
    const done = Object.entries(found?.attempts ?? {}).filter(([, how]) => how === "done");
    expect(done).toEqual([]);
    // All were tried, the program that it brought along among them.
    expect(Object.keys(found?.attempts ?? {})).toHaveLength(21);
    expect(found?.directories["/"]).not.toContain("etc");
    expect(found?.directories["/dev"]?.toSorted()).toEqual(["kvm", "null", "urandom"]);
    expect(found?.interfaces.filter((name) => name !== "lo")).toEqual([]);
  },
  TIMEOUT_MS,
);

const FORBIDDEN: [string, number, (number | string)[]][] = [
  ["execve", 59, ["/bin/sh", 0, 0]],
  ["ptrace", 101, [16, 1]],
  ["mount", 165, ["none", "/proc", "tmpfs", 0]],
  ["unshare", 272, [0x10000000]],
  ["socket of AF_INET", 41, [2, 1, 0]],
  ["socket of AF_NETLINK", 41, [16, 3, 0]],
  ["a raw socket", 41, [2, 3, 1]],
  ["a packet socket", 41, [17, 3, 0]],
  ["bpf", 321, [0]],
  ["userfaultfd", 323, [0]],
  ["io_uring_setup", 425, [4, 0]],
  ["keyctl", 250, [0]],
  ["add_key", 248, ["user", "x", 0, 0]],
  ["setns", 308, [0, 0]],
  ["pivot_root", 155, ["/", "/"]],
  ["process_vm_readv", 310, [1, 0, 0, 0]],
  ["open_by_handle_at", 304, [0, 0, 0]],
  ["perf_event_open", 298, [0]],
  ["a fork", 56, [17]],
];
for (const [name, number, args] of FORBIDDEN)
  jailTest(
    `${name} ends the process, by name`,
    async () => {
      const { said, found } = await runProbe({ confined: true, calls: [{ name, number, args }] });
      expect(found).toBeNull();
      expect(JSON.parse(said.trimEnd().split("\n").at(-1) ?? "")).toEqual({
        reason: "VMM_FAULT",
        message: `The VMM made the forbidden system call ${String(number).padStart(4, "0")}`,
      });
    },
    TIMEOUT_MS,
  );

const statusField = (text: string, name: string): string =>
  new RegExp(`^${name}:[ \\t]*(.*)$`, "m").exec(text)?.[1] ?? "";

async function startMachine(
  driver: KvmDriver,
  change: Partial<RunRequest> = {},
): Promise<{ run: MachineRun; id: string }> {
  const id = MachineId.create();
  const run = await driver.start({ ...request(id), ...change }, new AbortController().signal);
  return { run, id };
}

const NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/** What /proc says of each thread, by the field's name. */
function threadsOf(pid: number): ((name: string) => string)[] {
  return readdirSync(`/proc/${pid}/task`).map((task) => {
    const text = readFileSync(`/proc/${pid}/task/${task}/status`, "utf8");
    return (name) => statusField(text, name);
  });
}

const filterCounts = (pid: number): string[] =>
  threadsOf(pid)
    // Workers of the kernel's own, KVM's and io_uring's, are among ours as children of them.
    .filter((field) => !/^(kvm|iou)-/.test(field("Name")))
    .map((field) => field("Seccomp_filters"));

/** Threads of the process itself that do not preempt who wakes them: SCHED_BATCH. */
function batchThreads(pid: number): number {
  const stats = readdirSync(`/proc/${pid}/task`).map((task) =>
    readFileSync(`/proc/${pid}/task/${task}/stat`, "utf8"),
  );
  return stats.filter(
    (stat) => !/\((kvm|iou)-/.test(stat) && stat.split(") ").at(-1)?.split(" ")[38] === "3",
  ).length;
}

/** Two machines: all their threads confined, and nothing that they share. */
function checkConfined(pids: readonly number[]): void {
  const seen = NAMESPACES.map((name) => new Set([readlinkSync(`/proc/self/ns/${name}`)]));
  const uids = new Set<string>();
  for (const pid of pids) {
    for (const field of threadsOf(pid)) {
      expect(field("Seccomp")).toBe("2");
      expect(field("NoNewPrivs")).toBe("1");
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
        expect(Number.parseInt(field(set), 16)).toBe(0);
      expect(field("Groups")).toBe("");
      const ids = new Set(`${field("Uid")} ${field("Gid")}`.split(/\s/));
      expect(ids.size).toBe(1);
      uids.add([...ids].join());
    }
    // The I/O thread and the vCPU have a filter of their own on top.
    expect(filterCounts(pid).filter((count) => count === "2")).toHaveLength(2);
    // The I/O thread is one that lets the vCPU go on.
    expect(batchThreads(pid)).toBe(1);
    for (const [i, name] of NAMESPACES.entries())
      seen[i]?.add(readlinkSync(`/proc/${pid}/ns/${name}`));
  }
  expect(seen.map((links) => links.size)).toEqual(NAMESPACES.map(() => 1 + pids.length));
  expect([...uids].every((uid) => Number(uid) >= UID_BASE)).toBe(true);
  expect(uids.size).toBe(pids.length);
}

bareTest(
  "every thread of a VMM is filtered, without capabilities, in namespaces of its own",
  async () => {
    const kernelPath = writeBareKernel(join(temporary.path, "bare"), "hello");
    const options = { dir: machines, clock: systemClock, log: silentLog(), jail: makeJail() };
    const driver = new KvmDriver(options);
    const started = [
      await startMachine(driver, { kernelPath }),
      await startMachine(driver, { kernelPath }),
    ];
    for (const { run } of started)
      await until("its vCPU runs", () => {
        expect(run.status.phase).toBe("booting");
        return filterCounts(run.status.pid).filter((count) => count === "2").length === 2;
      });
    checkConfined(started.map(({ run }) => run.status.pid));
    for (const { id } of started) await driver.destroy(id);
    driver.close();
  },
  TIMEOUT_MS,
);

guestTest(
  "machines of a jail are counted, and found again by a second agent",
  async () => {
    const options = { dir: machines, clock: systemClock, log: silentLog(), jail: makeJail() };
    const driver = new KvmDriver(options);
    const started = [await startMachine(driver), await startMachine(driver)];
    for (const { run } of started) await until("it runs", () => run.status.phase === "running");
    checkConfined(started.map(({ run }) => run.status.pid));
    // What the agent is told, and what the kernel says of a process in a jail.
    const counted = await started[0]?.run.metrics();
    expect(counted?.vcpus[0]?.exitsMmio).toBeGreaterThan(0);
    expect(counted?.devices.map(({ kind }) => kind)).toContain("blk");
    expect(counted?.residentBytes).toBeGreaterThan(2 ** 20);
    driver.close();
    // A second agent finds them by pid and start time, through the jail's walls.
    const next = new KvmDriver({ ...options, jail: makeJail() });
    const found = await next.find();
    for (const { id } of started) {
      expect(found.find(({ machineId }) => machineId === id)?.run?.status.phase).toBe("running");
      await next.destroy(id);
      expect(existsSync(join(machines, id))).toBe(false);
    }
    next.close();
  },
  TIMEOUT_MS,
);

jailTest("a launcher that cannot make the jail says why", async () => {
  const jail = makeJail();
  const id = MachineId.create();
  const dir = join(machines, id);
  mkdirSync(dir);
  writeFileSync(join(dir, VMM_FILES.scratch), "");
  const argv = await jail.command(request(id), dir, jail.claim(dir));
  const at = argv.indexOf("--");
  const broken = [...argv.slice(0, at), "--file", join(dirname(dir), "absent"), ...argv.slice(at)];
  const child = Bun.spawn(broken, { stdio: ["ignore", "pipe", "pipe"], env: {} });
  const said = await new Response(child.stderr).text();
  expect(JSON.parse(said)).toEqual({
    reason: "VMM_FAULT",
    message: `Cannot make the machine's jail: open ${join(machines, "absent")}: No such file or directory`,
  });
  expect(await child.exited).toBe(VMM_EXIT.ended);
});
