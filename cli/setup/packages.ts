/**
 * The Debian packages Leveret uses, in one table, and how the missing ones are
 * installed. `for`: "host" runs machines, "quickstart" the demonstration beside
 * them (a lab, a registry, an image), "test" the suite.
 */
import { existsSync } from "node:fs";
import { LvError } from "../../proto/errors.ts";
import { mustRun, run } from "./process.ts";

export type DebianPackage = {
  name: string;
  purpose: "host" | "quickstart" | "test";
  /** What of it is used, for doctor. */
  why: string;
};

export const PACKAGES: DebianPackage[] = [
  { name: "gcc", purpose: "host", why: "builds the VMM's shim and the guest's init" },
  { name: "make", purpose: "host", why: "builds the VMM's shim and the guest's init" },
  { name: "libc6-dev", purpose: "host", why: "C headers" },
  { name: "e2fsprogs", purpose: "host", why: "makes the machines' writable disks" },
  { name: "xz-utils", purpose: "host", why: "unpacks kernels" },
  { name: "zstd", purpose: "host", why: "unpacks kernels" },
  { name: "busybox-static", purpose: "quickstart", why: "the lab's tools and the sample image" },
  { name: "passt", purpose: "host", why: "the machines' network" },
  { name: "qemu-system-x86", purpose: "quickstart", why: "the lab" },
  { name: "docker-registry", purpose: "quickstart", why: "a registry on loopback" },
  { name: "skopeo", purpose: "quickstart", why: "pushes images" },
  { name: "squashfs-tools", purpose: "test", why: "reads root file systems back" },
  { name: "python3", purpose: "test", why: "describes file trees" },
  { name: "binutils", purpose: "test", why: "lists the shim's symbols" },
  { name: "umoci", purpose: "test", why: "makes and unpacks OCI images" },
  { name: "mmdebstrap", purpose: "test", why: "makes a Debian userland" },
  { name: "debootstrap", purpose: "test", why: "makes a Debian userland" },
  { name: "lz4", purpose: "test", why: "the decoder is compared with it" },
  { name: "acpica-tools", purpose: "test", why: "reads the ACPI tables back" },
  { name: "attr", purpose: "test", why: "extended attributes" },
  { name: "python3", purpose: "test", why: "describes file trees" },
  { name: "procps", purpose: "test", why: "looks for leftover processes" },
  { name: "fio", purpose: "test", why: "loads disks in a guest" },
  { name: "iperf3", purpose: "test", why: "loads networks" },
  { name: "linux-perf", purpose: "test", why: "counts exits" },
  { name: "strace", purpose: "test", why: "looks at system calls" },
  { name: "pgbouncer", purpose: "test", why: "a pooler before PostgreSQL" },
  { name: "clang-format-14", purpose: "test", why: "the C style" },
  { name: "clang-tidy-14", purpose: "test", why: "the C checks" },
  { name: "clang-14", purpose: "test", why: "fuzzes the shim" },
  { name: "libclang-rt-14-dev", purpose: "test", why: "fuzzes the shim: libFuzzer, sanitizers" },
];

export type Purpose = DebianPackage["purpose"];

/** Those of the purposes that dpkg does not have. Throws TOOL_MISSING where there is no dpkg. */
export async function missingPackages(purposes: Purpose[]): Promise<DebianPackage[]> {
  const wanted = PACKAGES.filter((entry) => purposes.includes(entry.purpose));
  const query = await run([
    "dpkg-query",
    "-W",
    "-f=${Package} ${db:Status-Status}\n",
    ...wanted.map((entry) => entry.name),
  ]);
  // Unknown names make the code 1 while the known ones are still listed.
  const installed = new Set(
    query.stdout
      .split("\n")
      .filter((line) => line.endsWith(" installed"))
      .map((line) => line.split(" ")[0]),
  );
  return wanted.filter((entry) => !installed.has(entry.name));
}

/** Installs what is missing, as root or through sudo. Returns the names; throws TOOL_MISSING. */
export async function installPackages(
  purposes: Purpose[],
  signal?: AbortSignal,
): Promise<string[]> {
  const names = (await missingPackages(purposes)).map((entry) => entry.name);
  if (names.length === 0) return [];
  const prefix = await privilege(names);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const apt = [
    ...prefix,
    "env",
    "DEBIAN_FRONTEND=noninteractive",
    "apt-get",
    "-y",
    "-q",
    "-o",
    "DPkg::Lock::Timeout=600",
    "-o",
    "Acquire::Retries=3",
  ];
  const options = { env, ...(signal ? { signal } : {}) };
  await mustRun("read the package lists", [...apt, "update"], options);
  await mustRun(
    `install ${names.join(" ")}`,
    [...apt, "install", "--no-install-recommends", ...names],
    options,
  );
  return names;
}

/** [] for root, sudo when it asks for no password. */
async function privilege(names: string[]): Promise<string[]> {
  if (process.getuid?.() === 0) return [];
  const mends = `sudo apt-get install ${names.join(" ")}`;
  if (!existsSync("/usr/bin/sudo"))
    throw new LvError(
      "TOOL_MISSING",
      `Debian packages are missing and only root can install them: ${mends}`,
    );
  const probe = await run(["sudo", "-n", "true"]);
  if (probe.code !== 0)
    throw new LvError("TOOL_MISSING", `Debian packages are missing. Run this first: ${mends}`);
  return ["sudo", "-n"];
}
