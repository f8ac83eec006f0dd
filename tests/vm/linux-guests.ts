/**
 * The Linux that tests of guests boot, and where: a stock kernel in the lab or on
 * hardware, when LEVERET_GUEST_KERNEL and LEVERET_GUEST_INITRD name a kernel package
 * (agent/kernel/main.ts); else the one of LEVERET_DEV_KERNEL, on any /dev/kvm. Without
 * either the tests say why not.
 */
import { test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { VmmSpec } from "../../proto/vmm.ts";
import { DEV_KERNEL_ARGS, makeSpec, writePlainInitrd } from "./kit.ts";

const NEEDED = ["/dev/kvm", "/bin/busybox", "/usr/bin/mksquashfs"];

/** A lab interprets the host's processor and boots all that a distribution's kernel has. */
const STOCK_SLOWNESS = 10;
const INIT_TIMEOUT_MS = 30_000;

export type LinuxGuests = ReturnType<typeof linuxGuests>;

/**
 * `name` of the test file; `more`: files that its tests need beside those of all;
 * `kernels`: whether they hold for a stock kernel, too.
 */
export function linuxGuests(
  name: string,
  more: readonly string[] = [],
  kernels: "any" | "development" = "any",
) {
  const stock = process.env["LEVERET_GUEST_KERNEL"] ?? "";
  const stockInitrd = process.env["LEVERET_GUEST_INITRD"] ?? "";
  const isStock = kernels === "any" && stock !== "" && stockInitrd !== "";
  const kernelPath = isStock ? stock : (process.env["LEVERET_DEV_KERNEL"] ?? "");
  const kernelArgs = isStock ? "" : DEV_KERNEL_ARGS;
  const slowness = isStock ? STOCK_SLOWNESS : 1;
  const missing =
    kernelPath === ""
      ? "LEVERET_DEV_KERNEL is not set"
      : ([...NEEDED, ...more].find((path) => !existsSync(path)) ?? "");
  if (missing !== "") process.stderr.write(`tests/vm/${name}: skipped: ${missing}\n`);
  return {
    kernelPath,
    kernelArgs,
    isStock,
    missing,
    guestTest: test.skipIf(missing !== ""),
    /** A time limit of the development kernel, as it is for this one. */
    limit: (ms: number): number => ms * slowness,
    /** An initramfs with the modules that the kernel needs. Returns its path. */
    initrd: (directory: string): string =>
      isStock ? stockInitrd : writePlainInitrd(join(directory, "initrd")),
    /** As makeSpec, with the kernel; the initrd comes with the change. */
    spec: (change: Partial<VmmSpec>): VmmSpec =>
      makeSpec({
        kernelPath,
        kernelArgs,
        initTimeoutMs: INIT_TIMEOUT_MS * slowness,
        ...change,
      }),
  };
}
