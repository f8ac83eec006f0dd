import { afterAll, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseStanza } from "./debian.ts";
import { importKernelPackage } from "./make.ts";
import {
  findKernelPackage,
  kernelsDir,
  listKernelPackages,
  publishKernelPackage,
  type KernelManifest,
} from "./package.ts";

const work = mkdtempSync(join(tmpdir(), "leveret-make-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));

const initPath = join(work, "init");
writeFileSync(initPath, "init");

/** An ELF that kernelKind takes; `mark` makes it another kernel. */
function kernelFile(name: string, mark: number): string {
  const file = Buffer.alloc(256, mark);
  file.fill(0, 0, 120);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]).copy(file);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64);
  file.writeBigUInt64LE(16n, 96);
  const path = join(work, name);
  writeFileSync(path, file);
  return path;
}

let cacheCount = 0;
const newCache = (): string => join(work, `cache-${(cacheCount += 1)}`);

function manifest(key: string, createdAtMs: number): KernelManifest {
  return {
    version: 1,
    key,
    kind: "debian",
    createdAtMs,
    source: "linux-image 1",
    sourceSha256: "",
    initSha256: "",
    writerVersion: 1,
    modules: [],
  };
}

const FILES = { kernel: Buffer.from("kernel"), initrd: Buffer.from("initrd") };

test("an imported kernel is packed once per content", async () => {
  const cacheDir = newCache();
  const options = { cacheDir, initPath, kernelPath: kernelFile("a", 1), initrdPath: null };
  const first = await importKernelPackage(options);
  const again = await importKernelPackage(options);
  expect(again).toEqual(first);
  expect(readFileSync(first.kernelPath)).toEqual(readFileSync(options.kernelPath));
  expect(readFileSync(first.initrdPath).subarray(0, 6).toString()).toBe("070701");
  expect(first.manifest.kind).toBe("custom");
  const other = await importKernelPackage({ ...options, kernelPath: kernelFile("b", 2) });
  expect(other.manifest.key).not.toBe(first.manifest.key);
  expect(readdirSync(kernelsDir(cacheDir)).toSorted()).toEqual(
    [first.manifest.key, other.manifest.key].toSorted(),
  );
});

test("the user's initrd is taken as it is, when it is one", async () => {
  const initrdPath = join(work, "initrd");
  const options = { cacheDir: newCache(), kernelPath: kernelFile("c", 3), initrdPath };
  writeFileSync(initrdPath, "070701 and more");
  const made = await importKernelPackage(options);
  expect(readFileSync(made.initrdPath, "utf8")).toBe("070701 and more");
  writeFileSync(initrdPath, "no archive");
  expect(await importKernelPackage(options).catch(String)).toContain(
    `${initrdPath} is not an initrd`,
  );
});

test("files that are no kernel are refused by name and leave nothing behind", async () => {
  const cacheDir = newCache();
  const script = join(work, "script");
  writeFileSync(script, "#!/bin/sh\n");
  const attempt = (kernelPath: string): Promise<unknown> =>
    importKernelPackage({ cacheDir, initPath, kernelPath, initrdPath: null }).catch(String);
  expect(await attempt(script)).toContain(
    `${script} is not a kernel: it has neither an ELF nor a bzImage header`,
  );
  expect(await attempt(join(work, "gone"))).toContain("there is no such file");
  expect(await attempt(work)).toContain(`${work} is not a kernel: it is not a regular file`);
  expect(existsSync(kernelsDir(cacheDir))).toBe(false);
});

test("the newest default package is found, never a custom or a partial one", async () => {
  const cacheDir = newCache();
  expect(findKernelPackage(cacheDir)).toBeNull();
  await publishKernelPackage(cacheDir, manifest("00000000000000aa", 1_000), FILES);
  await publishKernelPackage(cacheDir, manifest("00000000000000bb", 3_000), FILES);
  await publishKernelPackage(cacheDir, manifest("00000000000000cc", 2_000), FILES);
  const custom = { ...manifest("00000000000000dd", 9_000), kind: "custom" } as const;
  await publishKernelPackage(cacheDir, custom, FILES);
  const partial = join(kernelsDir(cacheDir), "00000000000000ee");
  mkdirSync(partial);
  writeFileSync(join(partial, "vmlinux"), "kernel");
  expect(findKernelPackage(cacheDir)?.manifest.key).toBe("00000000000000bb");
  expect(listKernelPackages(cacheDir)).toHaveLength(4);
});

test("a partial package is replaced, and what a dead build left is removed", async () => {
  const cacheDir = newCache();
  const partial = join(kernelsDir(cacheDir), "00000000000000aa");
  mkdirSync(partial, { recursive: true });
  writeFileSync(join(partial, "vmlinux"), "half");
  const dead = join(kernelsDir(cacheDir), ".tmp-999999999-abcdef"); // over pid_max: never alive
  const alive = join(kernelsDir(cacheDir), `.tmp-${process.ppid}-abcdef`);
  mkdirSync(dead);
  mkdirSync(alive);
  const made = await publishKernelPackage(cacheDir, manifest("00000000000000aa", 1), FILES);
  expect(readFileSync(made.kernelPath, "utf8")).toBe("kernel");
  expect(existsSync(dead)).toBe(false);
  expect(existsSync(alive)).toBe(true);
});

test("only the first stanza and the first lines of apt's answer count", () => {
  const fields = parseStanza(
    "Package: a\nDepends: linux-image-6.1 (= 6.1)\nDescription: x\n more: y\n\nPackage: b\n",
  );
  expect(fields.get("Package")).toBe("a");
  expect(fields.get("Depends")).toBe("linux-image-6.1 (= 6.1)");
  expect(fields.has(" more")).toBe(false);
});
