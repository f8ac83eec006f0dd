import { expect, test } from "bun:test";
import { gzipSync } from "node:zlib";
import { extractVmlinux, kernelKind } from "./image.ts";

/** The least ELF that is a kernel: one segment that lies inside the file. */
function elf(body = 64): Buffer {
  const file = Buffer.alloc(64 + 56 + body, 7);
  file.fill(0, 0, 120);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]).copy(file);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64);
  file.writeBigUInt64LE(120n, 72);
  file.writeBigUInt64LE(BigInt(body), 96);
  return file;
}

/** As the kernel's build: gzip ends with the size itself, the others have it appended. */
function bzImage(packed: Uint8Array, bytes: number): Buffer {
  const setup = Buffer.alloc(2 * 512);
  const size = Buffer.alloc(packed[0] === 0x1f ? 0 : 4);
  if (size.length > 0) size.writeUInt32LE(bytes);
  setup[0x1f1] = 1;
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.writeUInt32LE(0x53726448, 0x202);
  setup.writeUInt16LE(0x20f, 0x206);
  setup.writeUInt32LE(16, 0x248);
  setup.writeUInt32LE(packed.length + size.length, 0x24c);
  return Buffer.concat([setup, Buffer.alloc(16), packed, size]);
}

function pipe(data: Uint8Array, ...argv: string[]): Uint8Array {
  const { stdout, exitCode } = Bun.spawnSync(argv, { stdin: data });
  if (exitCode !== 0) throw new Error(`${argv[0]} failed`);
  return stdout;
}

test("an ELF and a bzImage are told apart", () => {
  expect(kernelKind(elf(), "k")).toBe("elf");
  expect(kernelKind(bzImage(new Uint8Array(8), 8), "k")).toBe("bzimage");
});

test("whatever else there is says that it is not a kernel, and which file", () => {
  const refused = (file: Uint8Array, why: string): void =>
    expect(() => kernelKind(file, "/x/y")).toThrow(`/x/y is not a kernel: ${why}`);
  refused(Buffer.alloc(0), "it has neither an ELF nor a bzImage header");
  refused(Buffer.from("#!/bin/sh\n"), "it has neither an ELF nor a bzImage header");
  refused(Buffer.alloc(4096), "it has neither an ELF nor a bzImage header");
  const mutate = (at: number, value: number): Buffer => {
    const file = elf();
    file.writeUInt16LE(value, at);
    return file;
  };
  refused(mutate(4, 0x0101), "its ELF header is not for 64-bit x86");
  refused(mutate(18, 183), "its ELF header is not for 64-bit x86");
  refused(mutate(16, 1), "its ELF header names no executable");
  refused(mutate(54, 32), "its ELF program headers lie outside the file");
  refused(mutate(56, 0xffff), "its ELF program headers lie outside the file");
  refused(mutate(32 + 4, 0xffff), "its ELF program headers lie outside the file");
  refused(mutate(64, 2), "its ELF file has nothing to load");
  refused(mutate(96 + 4, 1), "an ELF segment runs past the end of the file");
  const old = bzImage(new Uint8Array(8), 8);
  old.writeUInt16LE(0x20a, 0x206);
  refused(old, "its boot protocol 2.10 is older than 2.12");
});

test("a payload comes out of LZ4, gzip, zstd and xz", async () => {
  const inner = elf(100_000);
  const packers: [string, () => Uint8Array][] = [
    ["lz4", () => pipe(inner, "lz4", "-l", "-c")],
    ["gzip", () => gzipSync(inner)],
    ["zstd", () => Bun.zstdCompressSync(inner)],
    ["xz", () => pipe(inner, "xz", "-c")],
  ];
  for (const [name, pack] of packers) {
    if ((name === "lz4" || name === "xz") && Bun.which(name) === null) continue;
    const image = bzImage(pack(), inner.length);
    expect(Buffer.from(await extractVmlinux(image, name)).equals(inner)).toBe(true);
  }
  expect(await extractVmlinux(inner, "plain")).toBe(inner);
});

test("a payload that is broken, missing or of no kernel is refused", async () => {
  const refused = async (image: Uint8Array, why: string): Promise<void> =>
    expect(await extractVmlinux(image, "/k").catch(String)).toContain(why);
  const inner = elf(1_000);
  const cut = bzImage(gzipSync(inner), inner.length);
  await refused(cut.subarray(0, cut.length - 9), "/k is not a kernel: its payload lies outside");
  await refused(bzImage(Buffer.from("garbage in it"), 100), "packed in an unknown way");
  const noise = gzipSync(Buffer.from("nothing that boots"));
  await refused(bzImage(noise, 18), "/k is not a kernel: it has neither");
  const huge = bzImage(Buffer.from("no gzip"), 0xffffffff);
  await refused(huge, "claims to unpack to 4294967295 bytes");
  await refused(bzImage(Buffer.from("1f8b0800ffffffff10000000", "hex"), 64), "cannot be unpacked");
  await refused(bzImage(Buffer.from("02214c18ffffffff", "hex"), 64), "LZ4: a block of");
});
