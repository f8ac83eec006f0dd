/**
 * Makes kernel packages: out of Debian's kernel by default, or out of files that
 * somebody has. A package that has the same inputs is used again, not made again.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import {
  downloadDebianPackage,
  resolveDebianKernel,
  unpackDebianKernel,
  type Progress,
} from "./debian.ts";
import { extractVmlinux } from "./image.ts";
import { buildInitramfs, collectModules, CONSOLE_MODULES, GUEST_MODULES } from "./initramfs.ts";
import {
  listKernelPackages,
  publishKernelPackage,
  readKernelPackage,
  type KernelManifest,
  type KernelPackage,
} from "./package.ts";

/** Counted up whenever the same inputs would give other files. */
const WRITER_VERSION = 2;
const KERNEL_MAX_BYTES = 1 << 30;
const DEFAULT_INIT_PATH = join(import.meta.dir, "../../native/out/init");

export type MakeOptions = {
  cacheDir: string;
  /** The guest's init; native/out/init by default. */
  initPath?: string;
  /** Ask apt for the newest kernel even when a package with this init is there. */
  update?: boolean;
  progress?: Progress;
};

/** The default package. Without `update` an existing one with the same init is the answer. */
export async function makeDebianPackage(options: MakeOptions): Promise<KernelPackage> {
  const { cacheDir, progress = () => undefined } = options;
  const init = readInit(options.initPath ?? DEFAULT_INIT_PATH);
  const initSha256 = sha256(init);
  const known = listKernelPackages(cacheDir).find(
    ({ manifest }) =>
      manifest.kind === "debian" &&
      manifest.initSha256 === initSha256 &&
      manifest.writerVersion === WRITER_VERSION,
  );
  if (known !== undefined && options.update !== true) return known;
  const debian = await resolveDebianKernel(progress);
  const wanted = [...GUEST_MODULES, ...CONSOLE_MODULES];
  const key = keyOf([String(WRITER_VERSION), debian.sha256, initSha256, ...wanted]);
  const existing = readKernelPackage(cacheDir, key);
  if (existing !== null) return existing;
  const downloads = join(cacheDir, "downloads");
  await mkdir(downloads, { recursive: true });
  const deb = await downloadDebianPackage(debian, downloads, progress);
  const work = await mkdtemp(join(tmpdir(), "leveret-kernel-"));
  try {
    progress(`unpacking ${debian.name}`);
    const unpacked = await unpackDebianKernel(deb, work);
    progress("extracting vmlinux");
    const kernel = await extractVmlinux(readFileSync(unpacked.vmlinuz), unpacked.vmlinuz);
    const modules = await collectModules(unpacked.modulesDir);
    const consoleModules = await collectModules(unpacked.modulesDir, CONSOLE_MODULES);
    const files = new Set([...modules, ...consoleModules].map(({ file }) => file));
    progress(`writing package ${key} with ${files.size} modules`);
    const manifest: KernelManifest = {
      version: 1,
      key,
      kind: "debian",
      createdAtMs: Date.now(),
      source: `${debian.name} ${debian.version}`,
      sourceSha256: debian.sha256,
      initSha256,
      writerVersion: WRITER_VERSION,
      modules: [...files],
    };
    const initrd = buildInitramfs(init, modules, consoleModules);
    return await publishKernelPackage(cacheDir, manifest, { kernel, initrd });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

export type ImportOptions = MakeOptions & {
  kernelPath: string;
  /** null: an initramfs with init alone, for a kernel with its drivers built in. */
  initrdPath: string | null;
};

/** Checks the user's own files and makes a package of them; never the default one. */
export async function importKernelPackage(options: ImportOptions): Promise<KernelPackage> {
  const { cacheDir, kernelPath, initrdPath, progress = () => undefined } = options;
  const image = readInput(kernelPath, "kernel");
  const kernel = await extractVmlinux(image, kernelPath);
  const init = initrdPath === null ? readInit(options.initPath ?? DEFAULT_INIT_PATH) : null;
  const initrd =
    initrdPath === null
      ? buildInitramfs(init ?? new Uint8Array(0), [])
      : checkInitrd(readInput(initrdPath, "initrd"), initrdPath);
  const key = keyOf([String(WRITER_VERSION), "custom", sha256(kernel), sha256(initrd)]);
  const existing = readKernelPackage(cacheDir, key);
  if (existing !== null) return existing;
  progress(`writing package ${key}`);
  const manifest: KernelManifest = {
    version: 1,
    key,
    kind: "custom",
    createdAtMs: Date.now(),
    source: kernelPath,
    sourceSha256: sha256(image),
    initSha256: init === null ? null : sha256(init),
    writerVersion: WRITER_VERSION,
    modules: [],
  };
  return await publishKernelPackage(cacheDir, manifest, { kernel, initrd });
}

/** A cpio archive, plain or packed in a way that Linux unpacks itself. */
function checkInitrd(initrd: Uint8Array, path: string): Uint8Array {
  const magics = ["303730373031", "303730373032", "1f8b", "28b52ffd", "fd377a58", "02214c18"];
  const start = Buffer.from(initrd.subarray(0, 6)).toString("hex");
  if (magics.some((magic) => start.startsWith(magic))) return initrd;
  throw new LvError(
    "KERNEL_INVALID",
    `${path} is not an initrd: it is no cpio archive, packed or not`,
  );
}

function readInput(path: string, noun: string): Uint8Array {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined)
    throw new LvError("KERNEL_NOT_FOUND", `Cannot read ${noun} ${path}: there is no such file`);
  if (!status.isFile())
    throw new LvError("KERNEL_INVALID", `${path} is not a ${noun}: it is not a regular file`);
  if (status.size > KERNEL_MAX_BYTES)
    throw new LvError("KERNEL_INVALID", `${path} is not a ${noun}: it has ${status.size} bytes`);
  return readFileSync(path);
}

function readInit(path: string): Uint8Array {
  if (!existsSync(path))
    throw new LvError(
      "KERNEL_NOT_FOUND",
      `The guest's init ${path} is not built: run bun run build`,
    );
  return readFileSync(path);
}

function sha256(data: Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

function keyOf(parts: readonly string[]): string {
  return sha256(Buffer.from(parts.join("\n"))).slice(0, 16);
}
