/**
 * The block device under a directory, as cgroup v2's io.max wants it: "major:minor" of
 * a whole disk. Null where there is none to name (tmpfs, overlay, btrfs, NFS).
 */
import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

export function diskDeviceOf(
  directory: string,
  sysfs = "/sys/dev/block",
  device = statSync(directory).dev,
): string | null {
  // glibc's encoding of a dev_t, of which 32 bits are used.
  const major = Math.floor(device / 256) & 0xfff;
  const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
  const entry = join(sysfs, `${major}:${minor}`);
  if (!existsSync(entry)) return null;
  if (!existsSync(join(entry, "partition"))) return `${major}:${minor}`;
  // A partition is a directory inside its disk's.
  return readFileSync(join(dirname(realpathSync(entry)), "dev"), "utf8").trim();
}
