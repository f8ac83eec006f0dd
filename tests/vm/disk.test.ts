/** A writable disk on real Linux (see dev-kernel.test.ts): what is on it, and what it costs the host. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { VmmSpec } from "../../proto/vmm.ts";
import { cacheDir } from "../../cli/paths.ts";
import { toolsImage } from "../bench/vmm-guest.ts";
import { TemporaryDirectory, VmmProcess, writeBusyboxImage } from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const guests = linuxGuests("disk");
const { missing, guestTest } = guests;

const MIB = 2 ** 20;
/** A lab makes and sums some MiB a second. */
const BLOB_MIB = guests.isStock ? 8 : 24;

let temporary: TemporaryDirectory;
let rootfs = "";
let initrdPath = "";
let scratch = "";
beforeAll(() => {
  temporary = new TemporaryDirectory();
  if (missing !== "") return;
  rootfs = writeBusyboxImage(temporary.path, ["sh", "dd", "md5sum", "cut", "rm", "sync", "echo"]);
  initrdPath = guests.initrd(temporary.path);
  scratch = join(temporary.path, "scratch.ext4");
  writeFileSync(scratch, "");
  truncateSync(scratch, 64 * MIB);
  const { exitCode } = Bun.spawnSync(["mke2fs", "-q", "-F", "-t", "ext4", scratch]);
  if (exitCode !== 0) throw new Error(`mke2fs ended with ${exitCode}`);
});
afterAll(() => temporary[Symbol.dispose]());

type Limit = VmmSpec["disks"][number]["limit"];

/** What the script says on standard output. */
async function run(name: string, script: string, limit?: Limit, image = rootfs): Promise<string> {
  const spec = guests.spec({
    initrdPath,
    // fio and its libraries need more than others.
    memoryMib: 256,
    disks: [
      { path: image, readOnly: true, id: "rootfs" },
      { path: scratch, readOnly: false, id: "scratch", ...(limit === undefined ? {} : { limit }) },
    ],
  });
  const argv = ["/bin/sh", "-c", script];
  await using vmm = new VmmProcess(temporary.make(name), {
    ...spec,
    process: { ...spec.process, argv, env: ["PATH=/bin"] },
  });
  const { status } = await vmm.ended();
  expect({ code: status.exitCode, message: status.message }).toEqual({
    code: 0,
    message: undefined,
  });
  return vmm
    .output()
    .filter((part) => part.startsWith("1:"))
    .map((part) => part.slice(2))
    .join("")
    .trim();
}

/** Has the host forget what it holds of a file. */
function evict(path: string): void {
  for (const argv of [
    ["sync", path],
    ["dd", `if=${path}`, "iflag=nocache", "count=0"],
  ]) {
    const { exitCode, stderr } = Bun.spawnSync(argv);
    if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString()}`);
  }
}

const hostBytes = (): number => statSync(scratch).blocks * 512;

guestTest(
  "what was written is there after a remount; what was removed leaves the host's file",
  async () => {
    const empty = hostBytes();
    const digest = "md5sum /blob | cut -c1-32";
    const made = await run(
      "make",
      `dd if=/dev/urandom of=/blob bs=64k count=${16 * BLOB_MIB} 2>/dev/null; ${digest}`,
    );
    expect(made).toMatch(/^[0-9a-f]{32}$/);
    const full = hostBytes();
    expect(full - empty).toBeGreaterThan((BLOB_MIB - 1) * MIB);
    // So that the next machine's reads wait for the disk: they go another way (blk.c).
    evict(scratch);
    expect(await run("check", `${digest}; rm /blob; sync`)).toBe(made);
    expect(hostBytes() - empty).toBeLessThan(2 * MIB);
  },
  guests.limit(30_000),
);

guestTest(
  "a limit makes a disk slower and loses nothing",
  async () => {
    const script =
      "dd if=/dev/zero of=/blob bs=64k count=64 2>/dev/null; sync; md5sum /blob | cut -c1-32; rm /blob";
    const limit = { bytesRate: 4 * MIB, bytesBurst: MIB };
    const begun = performance.now();
    expect(await run("limited", script, limit)).toBe("b5cfa9d6c8febd618f91ac2843d50a1c");
    // 4 MiB, one of them at once.
    expect(performance.now() - begun).toBeGreaterThan(700);
  },
  guests.limit(30_000),
);

const noFio = Bun.which("fio") === null || Bun.which("iperf3") === null;
if (noFio) process.stderr.write("tests/vm/disk: fio skipped: apt-get install fio iperf3\n");

test.skipIf(missing !== "" || noFio)(
  "fio reads every block as it wrote it, sixteen requests at a time",
  async () => {
    const script =
      `fio --name=v --filename=/blob --size=${BLOB_MIB}m --rw=randwrite --bsrange=4k-128k --ioengine=libaio ` +
      "--iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --end_fsync=1 " +
      "--output-format=terse --terse-version=3 | cut -d ';' -f 5,6,47; rm /blob";
    // Errors, KiB read back, KiB written.
    const said = await run("fio", script, undefined, toolsImage(cacheDir()));
    const [errors, read = 0, written = 0] = said.split(";").map(Number);
    expect(errors).toBe(0);
    expect(written).toBe(BLOB_MIB * 1_024);
    expect(read).toBeGreaterThanOrEqual(written);
  },
  guests.limit(60_000),
);
