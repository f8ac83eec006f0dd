/** Memory that goes back to the host on real Linux (see dev-kernel.test.ts). */
import { afterAll, beforeAll, expect } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { VmmMetrics, VmmReply } from "../../proto/vmm.ts";
import { isGuestRam, mappingsOf } from "../bench/boot-memory.ts";
import { type ControlClient, TemporaryDirectory, VmmProcess, writeBusyboxImage } from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const guests = linuxGuests("balloon");
const { missing, guestTest } = guests;

const MIB = 2 ** 20;

let temporary: TemporaryDirectory;
let rootfs = "";
let initrdPath = "";
beforeAll(() => {
  temporary = new TemporaryDirectory();
  if (missing !== "") return;
  rootfs = writeBusyboxImage(temporary.path, ["sh", "dd", "rm", "echo", "sleep"]);
  initrdPath = guests.initrd(temporary.path);
});
afterAll(() => temporary[Symbol.dispose]());

function start(name: string, script: string): VmmProcess {
  const spec = guests.spec({
    initrdPath,
    disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
  });
  const argv = ["/bin/sh", "-c", script];
  return new VmmProcess(temporary.make(name), {
    ...spec,
    process: { ...spec.process, argv, env: ["PATH=/bin"] },
  });
}

/** Of the guest's memory, what the host holds in its own. */
function residentBytes(pid: number): number {
  const parts = mappingsOf(readFileSync(`/proc/${pid}/smaps`, "utf8")).filter(isGuestRam);
  return parts.reduce((sum, { rssKib }) => sum + rssKib * 1_024, 0);
}

let lastId = 0;
async function ask(client: ControlClient, request: object): Promise<VmmReply> {
  lastId += 1;
  const id = lastId;
  client.send({ id, ...request });
  const mine = (): VmmReply | undefined => client.replies.find((reply) => reply.id === id);
  await client.until(() => mine() !== undefined);
  const reply = mine();
  if (reply === undefined) throw new Error("The VMM closed its control socket");
  return reply;
}

async function metrics(client: ControlClient): Promise<VmmMetrics> {
  const reply = await ask(client, { action: "metrics" });
  if (!reply.ok || reply.metrics === undefined) throw new Error(JSON.stringify(reply));
  return reply.metrics;
}

/** The test's own time-out bounds it. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await Bun.sleep(20);
}

guestTest(
  "what the balloon takes leaves the host's memory",
  async () => {
    const fill = "dd if=/dev/zero of=/dev/shm/x bs=64k count=768 2>/dev/null; echo full; sleep 0.5";
    await using vmm = start("inflate", `${fill}; rm /dev/shm/x; echo freed; sleep 1000`);
    const client = await vmm.control();
    await until(() => existsSync(join(vmm.directory, "output.log")));
    await until(() => vmm.output().join("").includes("full"));
    const full = residentBytes(vmm.pid);
    expect(full).toBeGreaterThan(48 * MIB);
    await until(() => vmm.output().join("").includes("freed"));
    expect(await ask(client, { action: "balloon", mib: 88 })).toMatchObject({ ok: true });
    await until(() => residentBytes(vmm.pid) < full - 32 * MIB);
  },
  guests.limit(30_000),
);

guestTest(
  "the balloon takes what it is told to, and lets go again",
  async () => {
    await using vmm = start("balloon", "echo up; sleep 1000");
    const client = await vmm.control();
    expect(await client.reached("running")).toBe(true);
    expect(await ask(client, { action: "balloon", mib: 1_000 })).toMatchObject({
      ok: false,
      reason: "BAD_REQUEST",
    });
    const actual = async (): Promise<number> => (await metrics(client)).balloon?.actual ?? 0;
    expect(await ask(client, { action: "balloon", mib: 32 })).toMatchObject({ ok: true });
    await until(async () => (await actual()) === 32 * MIB);
    // What the guest says of itself comes one request later.
    const available = async (): Promise<number> => (await metrics(client)).balloon?.available ?? 0;
    await until(async () => (await available()) > 0);
    await until(async () => (await available()) < 96 * MIB);
    const { balloon, devices } = await metrics(client);
    expect(balloon?.target).toBe(32 * MIB);
    expect(balloon?.free).toBeGreaterThan(MIB);
    expect(devices.find(({ kind }) => kind === "balloon")).toMatchObject({
      malformed: 0,
      errors: 0,
    });
    expect(await ask(client, { action: "balloon", mib: 0 })).toMatchObject({ ok: true });
    await until(async () => (await actual()) === 0);
  },
  guests.limit(30_000),
);
