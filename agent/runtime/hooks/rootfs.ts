/**
 * The writable disk under the root overlay: a sparse file with an ext4 on it. Kept
 * through stop and start, as a container's layer is; gone with the machine.
 * mkfs writes less than 1 MiB and takes some 20 ms, so no template is kept.
 */
import { open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { LvError } from "../../../proto/errors.ts";
import { VMM_FILES } from "../../../proto/vmm.ts";
import type { Hook } from "./hook.ts";

const MIB = 2 ** 20;

/** No reserved blocks, tables initialised by the guest when it needs them. */
const MKFS = [
  "mkfs.ext4",
  "-F",
  "-q",
  "-m",
  "0",
  "-E",
  "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
];

export const rootfsHook: Hook = {
  name: "rootfs",
  async up(context) {
    const path = join(context.dir, VMM_FILES.scratch);
    if (await isFile(path)) return;
    const partial = `${path}.new`;
    await rm(partial, { force: true });
    const file = await open(partial, "wx", 0o600);
    try {
      await file.truncate(context.request.diskMib * MIB);
    } finally {
      await file.close();
    }
    await makeFileSystem(partial);
    // Under its final name only when it is whole.
    await rename(partial, path);
    context.madeScratch = true;
  },
  async down(context) {
    const path = join(context.dir, VMM_FILES.scratch);
    await rm(`${path}.new`, { force: true });
    if (context.madeScratch) await rm(path, { force: true });
  },
};

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    // Not there yet.
    return false;
  }
}

async function makeFileSystem(path: string): Promise<void> {
  const child = spawnMkfs(path);
  const [code, said] = await Promise.all([child.exited, new Response(child.stderr).text()]);
  if (code === 0) return;
  if (/no space left/i.test(said)) throw new LvError("DISK_FULL", "The host's disk is full");
  throw new LvError("INTERNAL", "The scratch disk could not be made", { meta: { code, said } });
}

function spawnMkfs(path: string): Bun.Subprocess<"ignore", "ignore", "pipe"> {
  try {
    return Bun.spawn({
      cmd: [...MKFS, path],
      env: { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` },
      stdio: ["ignore", "ignore", "pipe"],
    });
  } catch (error) {
    throw new LvError("TOOL_MISSING", "mkfs.ext4 is missing: apt-get install e2fsprogs", {
      cause: error,
    });
  }
}
