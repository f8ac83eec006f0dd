/**
 * Machines of an agent on a bridge of this host, on the development kernel (see
 * dev-kernel.test.ts): root makes the bridge, the jail each machine's interface.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { RunRequest } from "../../agent/runtime/driver.ts";
import { Jail } from "../../agent/runtime/jail.ts";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { macOf } from "../../agent/runtime/passt.ts";
import { openBridge } from "../../agent/runtime/tap.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { OutputLogReader } from "../../lib/output-log-reader.ts";
import { MachineId } from "../../proto/ids.ts";
import { failure } from "../kit/failure.ts";
import { until } from "../kit/until.ts";
import { DEV_KERNEL_ARGS, TemporaryDirectory, writeBusyboxImage, writePlainInitrd } from "./kit.ts";

const UID_BASE = 1_930_000_000;
const BRIDGE = `lvb${process.pid}`;
const GATEWAY = `10.213.${process.pid % 250}.1`;
const PORT = 9_000;
const BODY = new Uint8Array(1 << 20).map((_, i) => (i * 2_654_435_761) >>> 24);
const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";

function ip(...words: string[]): boolean {
  return Bun.spawnSync(["ip", ...words], { stdout: "ignore", stderr: "ignore" }).exitCode === 0;
}

function whySkipped(): string {
  if (kernelPath === "") return "LEVERET_DEV_KERNEL is not set";
  if (process.getuid?.() !== 0) return "not root";
  const needed = ["/dev/kvm", "/dev/net/tun", "/bin/busybox", "/usr/bin/mksquashfs"];
  const absent = needed.find((path) => !existsSync(path));
  if (absent !== undefined) return absent;
  return ip("link", "add", BRIDGE, "type", "bridge") ? "" : "this host makes no bridges";
}
const reason = whySkipped();
if (reason !== "") process.stderr.write(`tests/vm/tap: skipped: ${reason}\n`);
const guestTest = test.skipIf(reason !== "");

let temporary: TemporaryDirectory;
let squashfsPath = "";
let initrdPath = "";
beforeAll(() => {
  temporary = new TemporaryDirectory();
  if (reason !== "") return;
  squashfsPath = writeBusyboxImage(temporary.path, ["sh", "cat", "wget", "md5sum", "nc", "ip"]);
  initrdPath = writePlainInitrd(join(temporary.path, "initrd"));
});
afterAll(() => {
  temporary[Symbol.dispose]();
  if (reason === "") ip("link", "delete", BRIDGE);
});

function request(script: string): RunRequest {
  return {
    machineId: MachineId.create(),
    incarnation: 1,
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
  };
}

const portOf = (dir: string, machineId: string): string =>
  `/sys/class/net/lv${statSync(join(dir, machineId)).uid}`;

const macOn = (name: string): string =>
  readFileSync(`/sys/class/net/${name}/address`, "utf8").trim();

/** What a machine's neighbour answers to whoever reaches it. */
async function ask(address: string): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  await Bun.connect({
    hostname: address,
    port: PORT,
    socket: { data: (_socket, data) => resolve(data.toString()) },
  });
  return promise;
}

guestTest(
  "machines on a bridge reach the host and not each other; their interfaces go with them",
  async () => {
    expect(ip("addr", "add", `${GATEWAY}/24`, "dev", BRIDGE)).toBe(true);
    expect(ip("link", "set", BRIDGE, "up")).toBe(true);
    const dir = temporary.make("machines");
    const bridge = openBridge(BRIDGE, "192.0.2.53");
    const jail = new Jail({ dir, uidBase: UID_BASE, cgroups: null, bridge: BRIDGE });
    const log = silentLog();
    const driver = new KvmDriver({ dir, clock: systemClock, log, jail, bridge, poolSize: 1 });
    using server = Bun.serve({ hostname: GATEWAY, port: 0, fetch: () => new Response(BODY) });
    // As what the machine's neighbour has; it closes first, as an HTTP server need not.
    using greeter = Bun.listen({
      hostname: GATEWAY,
      port: 0,
      socket: { open: (socket) => void socket.end("hi\n"), data: () => undefined },
    });
    const get = `wget -q -O - http://${GATEWAY}:${server.port}/ | md5sum`;
    const digest = createHash("md5").update(BODY).digest("hex");
    const said = (machineId: string): string => {
      const reader = new OutputLogReader(driver.outputPath(machineId), 0);
      const text = Buffer.concat([...reader.read(1 << 20)].map(({ data }) => data)).toString();
      reader.close();
      return text;
    };
    const never = new AbortController().signal;
    const server_ = request(
      `cat /sys/class/net/eth0/address /etc/resolv.conf; ${get}; echo up; exec nc -ll -p ${PORT} -e echo hi`,
    );
    try {
      const run = await driver.start(server_, never);
      const port = portOf(dir, server_.machineId);
      expect(readFileSync(join(port, "brport/isolated"), "utf8").trim()).toBe("1");
      await until("it serves", () => said(server_.machineId).includes("up\n"));
      expect(said(server_.machineId)).toStartWith(
        `${macOf(server_.machineId)}\nnameserver 192.0.2.53\n${digest}`,
      );
      const number = statSync(join(dir, server_.machineId)).uid - UID_BASE;
      const address = GATEWAY.replace(/1$/, String(2 + number));
      // It has said "up" a moment before it listens.
      expect(await until("an answer", () => ask(address).catch(() => null))).toBe("hi\n");
      const bridgeMac = macOn(BRIDGE);

      // The second comes out of the pool, if that is filled by now: it makes no difference.
      await until("one waits", () => driver.warm === 1);
      const client = request(
        `${get}; nc -w 3 ${address} ${PORT} && exit 9; test "$(nc -w 3 ${GATEWAY} ${greeter.port})" = hi || exit 8; exit 5`,
      );
      const second = await driver.start(client, never);
      const itsPort = portOf(dir, client.machineId);
      expect(existsSync(itsPort)).toBe(true);
      // Machines know the bridge by it: it is the lowest of its ports', whoever comes and goes.
      expect(macOn(basename(itsPort))).toBe("fe:ff:ff:ff:ff:ff");
      expect(macOn(BRIDGE)).toBe(bridgeMac);
      expect((await second.ended).exitCode).toBe(5);
      expect(said(client.machineId)).toStartWith(digest);
      await until("its interface is gone", () => !existsSync(itsPort));
      await driver.destroy(client.machineId);
      expect(macOn(BRIDGE)).toBe(bridgeMac);

      expect(run.status.phase).toBe("running");
      await driver.destroy(server_.machineId);
      await until("the other one's is gone too", () => !existsSync(port));
    } finally {
      await driver.destroy(server_.machineId);
      driver.close();
    }
  },
  60_000,
);

guestTest("a bridge that is not there ends the start with the reason", async () => {
  const dir = temporary.make("nowhere");
  const jail = new Jail({ dir, uidBase: UID_BASE + 1_000, cgroups: null, bridge: "lv-no-such" });
  const bridge = { name: "lv-no-such", gateway: "10.0.0.1", prefix: 24, resolver: "10.0.0.1" };
  const driver = new KvmDriver({ dir, clock: systemClock, log: silentLog(), jail, bridge });
  const wanted = request("true");
  const error = await failure(driver.start(wanted, new AbortController().signal));
  expect(error.message).toContain("on the bridge lv-no-such: No such device");
  expect(existsSync(join(dir, wanted.machineId))).toBe(false);
  expect(existsSync(`/sys/class/net/lv${UID_BASE + 1_000}`)).toBe(false);
  driver.close();
});
