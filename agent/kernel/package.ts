/**
 * Guest kernel packages on disk: `<cache>/kernels/<key>/{vmlinux,initramfs.cpio,
 * manifest.json}`, where the key is the digest of everything a package is made of.
 * A directory gets its final name by one rename, so what has that name is whole;
 * a killed build leaves only `.tmp-<pid>-…`, which the next build removes.
 */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { chmod, mkdir, mkdtemp, open, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";

export const KERNEL_FILES = {
  kernel: "vmlinux",
  initrd: "initramfs.cpio",
  manifest: "manifest.json",
} as const;

export type KernelManifest = {
  version: 1;
  /** 16 hex digits, the directory's name. */
  key: string;
  /** "debian": made by default, and what agents use; "custom": files somebody gave. */
  kind: "debian" | "custom";
  createdAtMs: number;
  /** Debian's package name and version, or the path of the imported kernel. */
  source: string;
  sourceSha256: string;
  /** Digest of native/out/init; null when the initrd was imported too. */
  initSha256: string | null;
  writerVersion: number;
  /** File names under /modules in the initramfs, in load order. */
  modules: string[];
};

export type KernelPackage = { kernelPath: string; initrdPath: string; manifest: KernelManifest };

/** `LEVERET_CACHE_DIR`, else ~/.cache/leveret. */
export function defaultCacheDir(env: Record<string, string | undefined> = process.env): string {
  const named = env["LEVERET_CACHE_DIR"];
  return named === undefined || named === "" ? join(homedir(), ".cache/leveret") : named;
}

export function kernelsDir(cacheDir: string): string {
  return join(cacheDir, "kernels");
}

/** The newest default package, or null when none was made yet. */
export function findKernelPackage(cacheDir: string): KernelPackage | null {
  return listKernelPackages(cacheDir).find(({ manifest }) => manifest.kind === "debian") ?? null;
}

/** Every whole package, newest first. What cannot be read is not a package. */
export function listKernelPackages(cacheDir: string): KernelPackage[] {
  const root = kernelsDir(cacheDir);
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .filter((name) => !name.startsWith("."))
    .map((name) => readKernelPackage(cacheDir, name))
    .filter((found) => found !== null)
    .sort((a, b) => b.manifest.createdAtMs - a.manifest.createdAtMs);
}

export function readKernelPackage(cacheDir: string, key: string): KernelPackage | null {
  const directory = join(kernelsDir(cacheDir), key);
  const kernelPath = join(directory, KERNEL_FILES.kernel);
  const initrdPath = join(directory, KERNEL_FILES.initrd);
  if (!existsSync(kernelPath) || !existsSync(initrdPath)) return null;
  try {
    const text = readFileSync(join(directory, KERNEL_FILES.manifest), "utf8");
    const manifest = JSON.parse(text) as KernelManifest;
    return manifest.version === 1 && manifest.key === key
      ? { kernelPath, initrdPath, manifest }
      : null;
  } catch {
    return null; // no manifest, or one of another version: not a package of ours
  }
}

/** Writes the three files and gives them their name; a package that is there already wins. */
export async function publishKernelPackage(
  cacheDir: string,
  manifest: KernelManifest,
  files: { kernel: Uint8Array; initrd: Uint8Array },
): Promise<KernelPackage> {
  const root = kernelsDir(cacheDir);
  await mkdir(root, { recursive: true });
  await removeAbandoned(root);
  const temporary = await mkdtemp(join(root, `.tmp-${process.pid}-`));
  try {
    await chmod(temporary, 0o755); // mkdtemp made it for its owner alone
    await writeDurably(join(temporary, KERNEL_FILES.kernel), files.kernel);
    await writeDurably(join(temporary, KERNEL_FILES.initrd), files.initrd);
    const text = `${JSON.stringify(manifest, null, 2)}\n`;
    await writeDurably(join(temporary, KERNEL_FILES.manifest), Buffer.from(text));
    const existing = readKernelPackage(cacheDir, manifest.key);
    if (existing !== null) return existing;
    const final = join(root, manifest.key);
    await rm(final, { recursive: true, force: true }); // not whole, or of another version
    await rename(temporary, final);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  const made = readKernelPackage(cacheDir, manifest.key);
  if (made === null) throw new Error(`Cannot read back kernel package ${manifest.key}`);
  return made;
}

async function writeDurably(path: string, data: Uint8Array): Promise<void> {
  const file = await open(path, "w", 0o644);
  try {
    await file.writeFile(data);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function removeAbandoned(root: string): Promise<void> {
  for (const name of readdirSync(root)) {
    const pid = /^\.tmp-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`))
      await rm(join(root, name), { recursive: true, force: true });
  }
}
