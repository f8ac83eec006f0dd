/** Images our writer makes out of difficult trees, read back by squashfs-tools and by the kernel. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TarItem } from "../../agent/images/tar-writer.ts";
import { makeTar } from "../kit/images/layers.ts";
import { squashfsMountProblem, withMounted } from "../kit/images/mount.ts";
import { writeImage } from "../kit/images/write.ts";
import { runTool } from "../kit/images/run.ts";
import { compareTrees, describeTree } from "../kit/tree.ts";

// Unpacking thousands of files waits for a disk that others use too.
setDefaultTimeout(120_000);

type Item = TarItem & { data?: string };

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "lev-squashfs-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

const ROOT: Item = { name: ".", kind: "directory", mode: 0o751, uid: 12, gid: 34, mtime: 1234567 };

/** Writes the items as one layer; returns the layer's and the image's path. */
async function build(name: string, items: Item[]): Promise<{ tar: string; squashfs: string }> {
  const tar = join(scratch, `${name}.tar`);
  const squashfs = join(scratch, `${name}.squashfs`);
  await Bun.write(tar, makeTar([ROOT, ...items]));
  await writeImage(squashfs, [tar]);
  return { tar, squashfs };
}

/** What GNU tar makes of the same layer is the truth. */
async function expectSameAsTar(name: string, items: Item[]): Promise<void> {
  const { tar, squashfs } = await build(name, items);
  const theirs = join(scratch, `${name}-tar`);
  const ours = join(scratch, `${name}-ours`);
  await mkdir(theirs);
  await runTool([
    "tar",
    "-x",
    "-p",
    "--xattrs",
    "--xattrs-include=*",
    "--same-owner",
    "-f",
    tar,
    "-C",
    theirs,
  ]);
  await runTool(["unsquashfs", "-no-progress", "-quiet", "-d", ours, squashfs]);
  const expected = describeTree(theirs);
  expect(compareTrees(expected, describeTree(ours))).toEqual([]);
  if (mountProblem !== null) return;
  await withMounted(squashfs, join(scratch, `${name}-mounted`), (mounted) => {
    expect(compareTrees(expected, describeTree(mounted))).toEqual([]);
  });
}

const mountProblem = await squashfsMountProblem();
if (mountProblem !== null)
  process.stderr.write(`squashfs: not compared by mounting: ${mountProblem}\n`);

const file = (name: string, data: string, more: Partial<Item> = {}): Item => ({
  name,
  kind: "file",
  data,
  mtime: 1_000_000,
  ...more,
});

/** Incompressible and different for every seed. */
function noise(length: number, seed: number): string {
  let state = seed * 7919 + 1;
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    bytes[i] = state >>> 24;
  }
  return bytes.toString("latin1");
}

describe("a squashfs of our writer", () => {
  test("what upper layers remove takes no room when it is much, and the rest is whole", async () => {
    const tars: string[] = [];
    const keep = file("keep", noise(300_000, 5));
    const lower = [ROOT, file("gone", noise(20 << 20, 1)), keep, file("small", "s")];
    const upper = [file(".wh.gone", ""), file("new", noise(200_000, 9))];
    for (const [index, items] of [lower, upper].entries()) {
      tars.push(join(scratch, `dead-${index}.tar`));
      await Bun.write(tars[index] ?? "", makeTar(items));
    }
    const squashfs = join(scratch, "dead.squashfs");
    const { sizeBytes } = await writeImage(squashfs, tars);
    expect(sizeBytes).toBeLessThan(1 << 20);
    const cat = await runTool(["unsquashfs", "-no-progress", "-lln", squashfs]);
    expect(cat.match(/300000 .*keep$/m)).not.toBeNull();
    const ours = join(scratch, "dead-ours");
    await runTool(["unsquashfs", "-no-progress", "-quiet", "-d", ours, squashfs]);
    expect(await Bun.file(join(ours, "keep")).bytes()).toEqual(
      new Uint8Array(Buffer.from(keep.data ?? "", "latin1")),
    );
  });

  test("an image with nothing but its root", async () => {
    await expectSameAsTar("empty", []);
  });

  test("a directory of 900 names over several metadata blocks", async () => {
    const items: Item[] = [{ name: "big", kind: "directory", mtime: 5 }];
    for (let i = 0; i < 900; i += 1)
      items.push(file(`big/name-${"x".repeat(i % 90)}-${i}`, `${i}`));
    await expectSameAsTar("many", items);
  });

  test("a listing over 64 KiB needs the extended directory inode", async () => {
    const items: Item[] = [{ name: "big", kind: "directory", mtime: 5 }];
    for (let i = 0; i < 400; i += 1)
      items.push(file(`big/${String(i).padStart(4, "0")}${"y".repeat(240)}`, ""));
    await expectSameAsTar("listing", items);
  });

  test("inodes further apart than a listing's 16 bits", async () => {
    const items: Item[] = [];
    for (let d = 0; d < 40; d += 1) {
      items.push({ name: `d${d}`, kind: "directory", mtime: 5 });
      for (let i = 0; i < 1000; i += 1) items.push(file(`d${d}/${i}`, i === 999 ? `of ${d}` : ""));
    }
    items.push({ name: "zz", kind: "directory", mtime: 5 });
    for (let d = 0; d < 40; d += 1)
      items.push({ name: `zz/link${d}`, kind: "hardlink", linkName: `d${d}/999` });
    // Unpacking 40,000 files would measure the disk: the links' contents say enough.
    const { squashfs } = await build("far", items);
    const names = Array.from({ length: 40 }, (_, d) => `zz/link${d}`);
    const contents = await runTool(["unsquashfs", "-no-progress", "-cat", squashfs, ...names]);
    expect(contents).toBe(names.map((_, d) => `of ${d}`).join(""));
    const listing = await runTool(["unsquashfs", "-no-progress", "-lln", squashfs]);
    expect(listing.trim().split("\n").length).toBe(1 + 40 * 1001 + 41);
  });

  test("files at every border of blocks and fragments, holes, and bytes that do not compress", async () => {
    const K = 128 << 10;
    const items: Item[] = [];
    for (const size of [0, 1, 511, 512, 513, K - 1, K, K + 1, 2 * K - 1, 2 * K, 3 * K + 5])
      items.push(
        file(`noise-${size}`, noise(size, size)),
        file(`text-${size}`, "abc\n".repeat(size).slice(0, size)),
      );
    items.push(file("hole", "\0".repeat(3 * K)), file("hole-tail", "\0".repeat(2 * K) + "end"));
    items.push(file("hole-middle", `start${"\0".repeat(4 * K)}end`));
    await expectSameAsTar("borders", items);
  });

  test("520 fragments need more than one block of the fragment table", async () => {
    const items: Item[] = [];
    for (let i = 0; i < 520; i += 1) items.push(file(`f${i}`, noise(70_000, i)));
    await expectSameAsTar("fragments", items);
  }, 60_000);

  test("2400 owners and 1200 sets of xattrs", async () => {
    const items: Item[] = [];
    for (let i = 0; i < 1200; i += 1) {
      const xattrs = { "user.number": `value ${i}`, "user.same": "s" };
      items.push(file(`f${i}`, "", { uid: 100_000 + i, gid: 4_000_000_000 - i, xattrs }));
    }
    await expectSameAsTar("owners", items);
  });

  test("every kind of inode with xattrs and with several names", async () => {
    const xattrs = { "trusted.lev": "t" };
    const items: Item[] = [
      file("file", "data", { xattrs }),
      { name: "sym", kind: "symlink", linkName: "t".repeat(4000), mtime: 2, xattrs },
      { name: "char", kind: "char", major: 4095, minor: 1_048_575, mtime: 3, xattrs },
      { name: "block", kind: "block", major: 8, minor: 1, mtime: 4, xattrs },
      { name: "fifo", kind: "fifo", mtime: 5, xattrs },
    ];
    for (const name of ["file", "sym", "char", "block", "fifo"])
      items.push({ name: `dir/${name}-again`, kind: "hardlink", linkName: name });
    // Last, because tar would touch its time when it makes the links.
    items.push({
      name: "dir",
      kind: "directory",
      mtime: 1,
      xattrs: { ...xattrs, "user.d": "x".repeat(3000) },
    });
    await expectSameAsTar("kinds", items);
  });
});
