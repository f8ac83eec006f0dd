/** Tests with Linux guests run where LEVERET_DEV_KERNEL names a kernel; elsewhere they say why not. */
import { test } from "bun:test";
import { existsSync } from "node:fs";

const NEEDED = ["/dev/kvm", "/bin/busybox", "/usr/bin/mksquashfs"];

/** `name` of the test file; `more`: files that its tests need beside those of all. */
export function linuxGuests(name: string, more: readonly string[] = []) {
  const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";
  const missing =
    kernelPath === ""
      ? "LEVERET_DEV_KERNEL is not set"
      : ([...NEEDED, ...more].find((path) => !existsSync(path)) ?? "");
  if (missing !== "") process.stderr.write(`tests/vm/${name}: skipped: ${missing}\n`);
  return { kernelPath, missing, guestTest: test.skipIf(missing !== "") };
}
