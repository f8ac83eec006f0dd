import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { diskDeviceOf } from "./disk-device.ts";

test("a partition counts as its disk; what is on no disk has no device", () => {
  const root = mkdtempSync(join(tmpdir(), "lev-disk-"));
  try {
    const disk = join(root, "devices", "nvme0n1");
    const sysfs = join(root, "dev");
    mkdirSync(join(disk, "nvme0n1p2"), { recursive: true });
    mkdirSync(sysfs);
    writeFileSync(join(disk, "dev"), "259:0\n");
    writeFileSync(join(disk, "nvme0n1p2", "partition"), "2\n");
    symlinkSync(disk, join(sysfs, "259:0"));
    symlinkSync(join(disk, "nvme0n1p2"), join(sysfs, "259:2"));
    symlinkSync(disk, join(sysfs, "8:300"));
    const number = (major: number, minor: number): number =>
      (minor & 0xff) + major * 256 + (minor >> 8) * 2 ** 20;
    const found = (major: number, minor: number): string | null =>
      diskDeviceOf("/", sysfs, number(major, minor));
    expect(found(259, 0)).toBe("259:0");
    expect(found(259, 2)).toBe("259:0");
    expect(found(8, 300)).toBe("8:300");
    expect(found(0, 35)).toBeNull();
  } finally {
    rmSync(root, { recursive: true });
  }
});
