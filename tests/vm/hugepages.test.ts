/**
 * Memory in pages of 2 MiB, on the development kernel (see dev-kernel.test.ts). Needs
 * some of the host's own: set aside here when there are none, and given back.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VMM_EXIT } from "../../proto/vmm.ts";
import {
  makeSpec,
  TemporaryDirectory,
  VmmProcess,
  writeBusyboxImage,
  writePlainInitrd,
} from "./kit.ts";

const POOL = "/proc/sys/vm/nr_hugepages";
const MEMORY_MIB = 128;
const PAGES = MEMORY_MIB / 2;
const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";

const poolSize = (): number => (existsSync(POOL) ? Number(readFileSync(POOL, "utf8")) : 0);
const before = poolSize();

function field(name: string): number {
  const text = readFileSync("/proc/meminfo", "utf8");
  return Number(new RegExp(`^${name}: +(\\d+)`, "m").exec(text)?.[1] ?? 0);
}

/** The pool is asked for at once; memory that is too fragmented gives less. */
function whySkipped(): string {
  if (kernelPath === "") return "LEVERET_DEV_KERNEL is not set";
  const needed = ["/dev/kvm", "/bin/busybox", "/usr/bin/mksquashfs", POOL];
  const absent = needed.find((path) => !existsSync(path));
  if (absent !== undefined) return absent;
  try {
    writeFileSync(POOL, `${before + PAGES}`);
  } catch {
    return `${POOL} cannot be written`;
  }
  if (poolSize() >= before + PAGES) return "";
  writeFileSync(POOL, `${before}`);
  return "this host gives no pages of 2 MiB";
}
const reason = whySkipped();
if (reason !== "") process.stderr.write(`tests/vm/hugepages: skipped: ${reason}\n`);
const guestTest = test.skipIf(reason !== "");

let temporary: TemporaryDirectory;
beforeAll(() => {
  temporary = new TemporaryDirectory();
});
afterAll(() => {
  temporary[Symbol.dispose]();
  if (poolSize() !== before) writeFileSync(POOL, `${before}`);
});

guestTest(
  "a machine runs in pages of 2 MiB, all of them its own; without enough it is refused",
  async () => {
    const rootfs = writeBusyboxImage(temporary.path, ["sh", "cat", "dd", "md5sum"]);
    const initrdPath = writePlainInitrd(join(temporary.path, "initrd"));
    const spec = makeSpec({
      kernelPath,
      initrdPath,
      memoryMib: MEMORY_MIB,
      hugepages: true,
      disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
    });
    // Fills some memory, and looks at it.
    const script = "dd if=/dev/zero of=/dev/shm/a bs=1M count=32 2>/dev/null; md5sum /dev/shm/a";
    const argv = ["/bin/sh", "-c", script];
    const free = field("HugePages_Free") - field("HugePages_Rsvd");
    {
      await using vmm = new VmmProcess(temporary.make("huge"), {
        ...spec,
        process: { ...spec.process, argv, env: ["PATH=/bin"] },
      });
      const client = await vmm.control();
      expect(await client.reached("running")).toBe(true);
      expect(field("HugePages_Free") - field("HugePages_Rsvd")).toBe(free - PAGES);
      const { status } = await vmm.ended();
      expect(status).toMatchObject({ phase: "ended", exitCode: 0 });
      expect(vmm.output().join("")).toContain("58f06dd588d8ffb3beb46ada6309436b");
    }
    expect(field("HugePages_Free") - field("HugePages_Rsvd")).toBe(free);

    writeFileSync(POOL, `${before}`);
    await using refused = new VmmProcess(temporary.make("refused"), spec);
    const { code, status } = await refused.ended();
    expect({ code, reason: status.reason }).toEqual({
      code: VMM_EXIT.noCapacity,
      reason: "NO_CAPACITY",
    });
    expect(status.message).toContain("64 free pages of 2 MiB");
  },
  60_000,
);
