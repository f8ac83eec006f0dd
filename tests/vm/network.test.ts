/**
 * A guest's network on real Linux (see dev-kernel.test.ts): through passt, and through
 * a TAP interface where this process may make one. Servers are on this host.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { RunRequest } from "../../agent/runtime/driver.ts";
import { Jail } from "../../agent/runtime/jail.ts";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { macOf, passtArguments, passtsOf } from "../../agent/runtime/passt.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { OutputLogReader } from "../../lib/output-log-reader.ts";
import { MachineId } from "../../proto/ids.ts";
import { VMM_FILES, type VmmNetwork, type VmmSpec } from "../../proto/vmm.ts";
import { cacheDir } from "../../cli/paths.ts";
import { toolsImage } from "../bench/vmm-guest.ts";
import { serveIperf } from "../bench/vmm-net.ts";
import { until } from "../kit/until.ts";
import { TemporaryDirectory, VmmProcess, writeBusyboxImage } from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const guests = linuxGuests("network", ["/usr/bin/passt"]);
const { missing, guestTest } = guests;
const tapMissing = process.getuid?.() !== 0 || !existsSync("/dev/net/tun");
const tapTest = test.skipIf(missing !== "" || tapMissing);

const UID_BASE = 1_920_000_000;
const CONNECTIONS = 100;
/** passt gives a connection up that takes no data for 8 s: less for a guest that is emulated. */
const BODY_BYTES = guests.isStock ? 8 << 10 : 64 << 10;
const MAC = "02:00:00:00:00:07";

let temporary: TemporaryDirectory;
let rootfs = "";
let initrdPath = "";
beforeAll(() => {
  temporary = new TemporaryDirectory();
  if (missing !== "") return;
  const applets = [
    "sh",
    "cat",
    "echo",
    "wget",
    "md5sum",
    "seq",
    "ip",
    "cut",
    "sleep",
    "dd",
    "nc",
    "mkdir",
  ];
  rootfs = writeBusyboxImage(temporary.path, applets);
  initrdPath = guests.initrd(temporary.path);
});
afterAll(() => temporary[Symbol.dispose]());

/** The body of `/<n>`: other bytes for each n. */
function body(n: number): Uint8Array {
  const bytes = new Uint8Array(BODY_BYTES);
  let state = n + 1;
  for (let i = 0; i < bytes.length; i += 1) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

const md5 = (bytes: Uint8Array): string => createHash("md5").update(bytes).digest("hex");

/**
 * GET /<n> gives body(n), but only when all CONNECTIONS have asked, so that they are open
 * at the same time; POST gives the digest of what came.
 */
function serve(hostname: string): Bun.Server<undefined> {
  const all = Promise.withResolvers<void>();
  let asked = 0;
  return Bun.serve({
    hostname,
    port: 0,
    // The first wait for the last.
    idleTimeout: 0,
    fetch: async (request) => {
      if (request.method === "POST")
        return new Response(`${md5(new Uint8Array(await request.arrayBuffer()))}\n`);
      asked += 1;
      if (asked === CONNECTIONS) all.resolve();
      await all.promise;
      return new Response(body(Number(new URL(request.url).pathname.slice(1))));
    },
  });
}

function start(directory: string, script: string, change: Partial<VmmSpec>): VmmProcess {
  const spec = guests.spec({
    initrdPath,
    // For a hundred processes, with the kernel of a distribution.
    memoryMib: 256,
    disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
    ...change,
  });
  const argv = ["/bin/sh", "-c", script];
  return new VmmProcess(directory, {
    ...spec,
    process: { ...spec.process, argv, env: ["PATH=/bin"] },
  });
}

/** A passt on the machine's directory; the host's loopback is behind the gateway, unlike an agent's. */
async function startPasst(directory: string): Promise<AsyncDisposable> {
  const socket = join(directory, VMM_FILES.passt);
  const argv = passtArguments("mch_1", process.getuid?.() ?? 0);
  const child = Bun.spawn(["passt", ...argv.filter((it) => it !== "--no-map-gw")], {
    cwd: directory,
    stdio: ["ignore", "ignore", "ignore"],
  });
  while (!existsSync(socket)) {
    if (child.exitCode !== null) throw new Error(`passt ended with ${child.exitCode}`);
    await Bun.sleep(2);
  }
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

const passtNetwork = (directory: string): VmmNetwork => ({
  kind: "passt",
  name: join(directory, VMM_FILES.passt),
  mac: MAC,
  mtu: 65_520,
  address: "10.0.2.15/24",
  gateway: "10.0.2.2",
});

const download = (url: string): string =>
  `mkdir /got; cd /got; for i in $(seq ${CONNECTIONS}); do wget -q -O $i ${url}/$i & done; ` +
  "wait; md5sum *";

function checkDownloads(vmm: VmmProcess): void {
  const lines = stdout(vmm).trimEnd().split("\n");
  const wanted = Array.from({ length: CONNECTIONS }, (_, i) => `${md5(body(i + 1))}  ${i + 1}`);
  expect(lines.toSorted()).toEqual(wanted.toSorted());
}

function stdout(vmm: VmmProcess): string {
  const parts = vmm.output().filter((part) => part.startsWith("1:"));
  return parts.map((part) => part.slice(2)).join("");
}

guestTest(
  "100 connections at once through passt lose and change nothing",
  async () => {
    const directory = temporary.make("passt");
    await using _passt = await startPasst(directory);
    using server = serve("127.0.0.1");
    const url = `http://10.0.2.2:${server.port}`;
    await using vmm = start(directory, download(url), { networks: [passtNetwork(directory)] });
    const { status } = await vmm.ended();
    expect({ code: status.exitCode, message: status.message }).toEqual({
      code: 0,
      message: undefined,
    });
    checkDownloads(vmm);
  },
  guests.limit(60_000),
);

guestTest(
  "the guest has the address, the route and the resolver it was given; the image's own stays",
  async () => {
    const directory = temporary.make("config");
    await using _passt = await startPasst(directory);
    using server = serve("127.0.0.1");
    const script =
      "ip -o -4 addr show eth0; ip route; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; " +
      "cat /etc/resolv.conf; seq 1 200000 >/blob; " +
      `md5sum /blob | cut -c1-32; wget -q -O - --post-file=/blob http://10.0.2.2:${server.port}/`;
    await using vmm = start(directory, script, {
      networks: [passtNetwork(directory)],
      resolvConf: "nameserver 10.0.2.3\n",
    });
    expect((await vmm.ended()).status.exitCode).toBe(0);
    const lines = stdout(vmm).trimEnd().split("\n");
    expect(lines[0]).toContain("inet 10.0.2.15/24");
    expect(lines).toContain("default via 10.0.2.2 dev eth0 ");
    expect(lines.slice(3, 6)).toEqual([MAC, "65520", "nameserver 10.0.2.3"]);
    expect(lines[6]).toMatch(/^[0-9a-f]{32}$/);
    expect(lines[7]).toBe(lines[6] ?? "");
  },
  guests.limit(60_000),
);

guestTest("a machine whose network stack is gone says so", async () => {
  const directory = temporary.make("absent");
  await using vmm = start(directory, "true", { networks: [passtNetwork(directory)] });
  const { lastError } = await vmm.ended();
  expect(lastError?.reason).toBe("VMM_FAULT");
  expect(lastError?.message).toContain("Cannot open the network stack at");
});

tapTest(
  "an agent's machine in its jail has a passt of its own user, and no way to the host's loopback",
  async () => {
    const dir = temporary.make("machines");
    using server = serve("127.0.0.1");
    const jail = new Jail({ dir, uidBase: UID_BASE, cgroups: null });
    const log = silentLog();
    const driver = new KvmDriver({ dir, clock: systemClock, log, jail, passt: Bun.which("passt") });
    const machineId = MachineId.create();
    const script =
      "cat /sys/class/net/eth0/address; cat /etc/resolv.conf; sleep 0.1; " +
      // nc, which says no: wget with a time-out crashes in this guest, which is no proof.
      `echo | nc -w 5 10.0.2.2 ${server.port} > /dev/null; [ $? = 1 ] && exit 5; exit 9`;
    const argv = ["/bin/sh", "-c", script];
    const request: RunRequest = {
      machineId,
      incarnation: 1,
      cpus: 1,
      memoryMib: 128,
      diskMib: 16,
      kernelPath: guests.kernelPath,
      initrdPath,
      kernelArgs: guests.kernelArgs,
      squashfsPath: rootfs,
      process: { argv, env: ["PATH=/bin"], cwd: "/", user: "", stopSignal: 9 },
      hostname: "guest",
    };
    try {
      const run = await driver.start(request, new AbortController().signal);
      const [passt] = passtsOf(machineId);
      const status = readFileSync(`/proc/${passt?.pid ?? 0}/status`, "utf8");
      expect(Number(/^Uid:\t(\d+)/m.exec(status)?.[1])).toBeGreaterThanOrEqual(UID_BASE);
      expect((await run.ended).exitCode).toBe(5);
      await until("passt is gone", () => passtsOf(machineId).length === 0);
      const reader = new OutputLogReader(driver.outputPath(machineId), 0);
      const said = Buffer.concat([...reader.read(1 << 20)].map(({ data }) => data)).toString();
      reader.close();
      expect(said).toContain(`${macOf(machineId)}\nnameserver 10.0.2.3\n`);
    } finally {
      await driver.destroy(machineId);
      driver.close();
    }
  },
  guests.limit(60_000),
);

/** A TAP interface with an address of ours, gone at the end of the scope. */
function makeTap(name: string, address: string): Disposable {
  const ip = (...words: string[]): void => {
    const { exitCode, stderr } = Bun.spawnSync(["ip", ...words], { stderr: "pipe" });
    if (exitCode !== 0) throw new Error(`ip ${words.join(" ")}: ${stderr.toString()}`);
  };
  ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr");
  const tap = { [Symbol.dispose]: () => ip("link", "delete", name) };
  try {
    ip("addr", "add", address, "dev", name);
    ip("link", "set", name, "up");
  } catch (error) {
    tap[Symbol.dispose]();
    throw error;
  }
  return tap;
}

tapTest(
  "100 connections at once through a TAP interface lose and change nothing",
  async () => {
    const directory = temporary.make("tap");
    const name = `lvt${process.pid}`;
    using _tap = makeTap(name, "198.51.100.1/30");
    using server = serve("198.51.100.1");
    const network: VmmNetwork = {
      kind: "tap",
      name,
      mac: MAC,
      mtu: 1_500,
      address: "198.51.100.2/30",
      gateway: "198.51.100.1",
    };
    const url = `http://198.51.100.1:${server.port}`;
    await using vmm = start(directory, download(url), { networks: [network] });
    expect((await vmm.ended()).status.exitCode).toBe(0);
    checkDownloads(vmm);
  },
  guests.limit(60_000),
);

const noIperf = Bun.which("fio") === null || Bun.which("iperf3") === null;
if (noIperf) process.stderr.write("tests/vm/network: iperf3 skipped: apt-get install fio iperf3\n");

/** Four streams out of the guest, then four into it; each as the receiving end counted it. */
async function iperf(directory: string, network: VmmNetwork, host: string): Promise<void> {
  await using server = await serveIperf(host);
  const one = (options: string): string =>
    `iperf3 -c ${network.gateway} -p ${server.port} -P 4 -t 1 -f m ${options} | grep 'SUM.*receiver' || exit 1`;
  await using vmm = start(directory, `${one("")}; ${one("-R")}`, {
    disks: [{ path: toolsImage(cacheDir()), readOnly: true, id: "rootfs" }],
    memoryMib: 256,
    networks: [network],
  });
  const { status } = await vmm.ended();
  const said = stdout(vmm);
  expect({ code: status.exitCode, message: status.message, said }).toMatchObject({
    code: 0,
    message: undefined,
  });
  const received = [...said.matchAll(/ ([\d.]+) Mbits\/sec /g)].map(([, rate]) => Number(rate));
  expect(received).toHaveLength(2);
  for (const rate of received) expect(rate).toBeGreaterThan(1);
}

test.skipIf(missing !== "" || noIperf)(
  "iperf3 through passt, four streams each way",
  async () => {
    const directory = temporary.make("iperf-passt");
    await using _passt = await startPasst(directory);
    await iperf(directory, passtNetwork(directory), "127.0.0.1");
  },
  guests.limit(60_000),
);

test.skipIf(missing !== "" || noIperf || tapMissing)(
  "iperf3 through a TAP interface, four streams each way",
  async () => {
    const name = `lvi${process.pid}`;
    using _tap = makeTap(name, "198.51.100.5/30");
    const network: VmmNetwork = {
      kind: "tap",
      name,
      mac: MAC,
      mtu: 1_500,
      address: "198.51.100.6/30",
      gateway: "198.51.100.5",
    };
    await iperf(temporary.make("iperf-tap"), network, "198.51.100.5");
  },
  guests.limit(60_000),
);
