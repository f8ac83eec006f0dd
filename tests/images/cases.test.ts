/** Cases that break builders and that need a tool's own archive or a registry that changes its mind. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeRegistry, gzipLayer, type Layer } from "../kit/images/fake-registry.ts";
import { makeTar } from "../kit/images/layers.ts";
import { runTool } from "../kit/images/run.ts";
import { TestStore } from "../kit/images/store.ts";
import { writeImage } from "../kit/images/write.ts";
import { compareTrees, describeTree } from "../kit/tree.ts";

setDefaultTimeout(120_000);

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "lev-cases-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

/** Makes a tree with a shell, archives it with GNU tar, and compares ours with GNU tar's own unpacking. */
async function sameAsTar(name: string, script: string, flags: string[]): Promise<void> {
  const dir = join(scratch, name);
  const tar = join(scratch, `${name}.tar`);
  await mkdir(dir);
  await runTool(["sh", "-ec", script], dir);
  await runTool(["tar", ...flags, "--xattrs", "--xattrs-include=*", "-cf", tar, "-C", dir, "."]);
  const theirs = join(scratch, `${name}-theirs`);
  const ours = join(scratch, `${name}-ours`);
  await mkdir(theirs);
  const unpack = ["-p", "--xattrs", "--xattrs-include=*", "--same-owner"];
  await runTool(["tar", "-x", ...unpack, "-f", tar, "-C", theirs]);
  await writeImage(join(scratch, `${name}.squashfs`), [tar]);
  await runTool([
    "unsquashfs",
    "-no-progress",
    "-quiet",
    "-d",
    ours,
    join(scratch, `${name}.squashfs`),
  ]);
  expect(compareTrees(describeTree(theirs), describeTree(ours))).toEqual([]);
}

describe("archives of GNU tar", () => {
  const sparse = `truncate -s 3M holes; printf begin | dd of=holes conv=notrunc status=none
    printf middle | dd of=holes bs=1 seek=1500000 conv=notrunc status=none
    truncate -s 900K nothing; printf x > tail; truncate -s 700K tail
    for i in 1 2 3 4 5 6 7 8 9; do printf part | dd of=many bs=1 seek=$((i * 200000)) conv=notrunc status=none; done`;
  const formats: [string, string[]][] = [
    ["gnu", ["-S", "--format=gnu"]],
    ["pax-0.0", ["-S", "--format=pax", "--sparse-version=0.0"]],
    ["pax-0.1", ["-S", "--format=pax", "--sparse-version=0.1"]],
    ["pax-1.0", ["-S", "--format=pax", "--sparse-version=1.0"]],
  ];
  for (const [format, flags] of formats)
    test(`sparse files in format ${format} have their contents`, async () => {
      await sameAsTar(`sparse-${format}`, sparse, flags);
    });

  const odd = `long=$(printf 'n%.0s' $(seq 200)); mkdir -p $long/$long; printf x > $long/$long/$long
    ln -s /$long/$long t; ln $long/$long/$long hard; printf b > $(printf 'raw-\\377-name')
    chown 3000000000:70000 hard; chmod 6755 hard; touch -d 1970-01-01T00:00:00Z epoch
    touch -d 2099-01-01T00:00:00Z future; mkfifo fifo; mknod c c 259 70000; mknod b b 8 1
    setfattr -n user.x -v 0x00ff0a3d hard; mkdir d; setfattr -n user.d -v y d; chmod 1777 d`;
  for (const format of ["gnu", "pax"])
    test(`long and raw names, owners, times, devices, links and xattrs in format ${format}`, async () => {
      await sameAsTar(`odd-${format}`, odd, [`--format=${format}`]);
    });
});

const layerOf = (data: string): Layer => gzipLayer(makeTar([{ name: "a", kind: "file", data }]));

describe("a registry that changes", () => {
  test("a tag that moves between the question and the pull gives the image that was resolved", async () => {
    await using registry = new FakeRegistry();
    await using own = new TestStore();
    const first = registry.addImage("moving", [layerOf("first")]);
    registry.hook = (request) => {
      if (request.method !== "HEAD") return undefined;
      const answer = registry.serve(request);
      registry.addImage("moving", [layerOf("second")]);
      return answer;
    };
    expect((await own.store.ensure(first.reference)).digest).toBe(first.digest);
    registry.hook = () => undefined;
    const second = await own.store.ensure(first.reference);
    expect(second.digest).not.toBe(first.digest);
  });

  test("a second tag that shares layers fetches only its own", async () => {
    await using registry = new FakeRegistry();
    await using own = new TestStore();
    const shared = [layerOf("one"), layerOf("two")];
    await own.store.ensure(registry.addImage("base", shared).reference);
    const before = registry.blobHits().length;
    const more = registry.addImage("more", [...shared, layerOf("three")]);
    await own.store.ensure(more.reference);
    const fetched = registry.blobHits().slice(before);
    expect(fetched.length).toBe(2);
    expect(fetched.some(({ path }) => path.endsWith(more.layers[2]?.digest ?? "-"))).toBe(true);
  });

  test("ten machines that ask at once on two hosts: one build each, the same bytes", async () => {
    await using registry = new FakeRegistry();
    const image = registry.addImage("ten", [layerOf("x".repeat(300_000)), layerOf("y")]);
    const paths: string[] = [];
    await using one = new TestStore();
    await using two = new TestStore();
    for (const host of [one, two]) {
      const before = registry.blobHits().length;
      const all = await Promise.all(
        Array.from({ length: 10 }, () => host.store.ensure(image.reference)),
      );
      expect(new Set(all.map(({ squashfsPath }) => squashfsPath)).size).toBe(1);
      expect(registry.blobHits().length - before).toBe(3);
      paths.push(all[0]?.squashfsPath ?? "");
    }
    await runTool(["cmp", ...paths]);
  });

  test("of six images at once two are built at a time, and all are built", async () => {
    await using registry = new FakeRegistry();
    await using own = new TestStore();
    const images = Array.from({ length: 6 }, (_, i) =>
      registry.addImage(`n${i}`, [layerOf(`${i}`)]),
    );
    await Promise.all(images.map(({ reference }) => own.store.ensure(reference)));
    // An image begins with its config: the blobs of later ones come after those of earlier ones.
    const order = registry.blobHits().map(({ path }) => /\/v2\/(\w+)\//.exec(path)?.[1] ?? "");
    const last = new Map(order.map((name, at) => [name, at]));
    for (let at = 0; at < order.length; at += 1) {
      const open = [...last].filter(([name, end]) => order.indexOf(name) <= at && end >= at);
      expect(open.length).toBeLessThanOrEqual(2);
    }
    expect(last.size).toBe(6);
  });

  test("a stored layer that went bad on disk is fetched again by itself", async () => {
    await using registry = new FakeRegistry();
    await using own = new TestStore();
    const shared = layerOf("shared ".repeat(1000));
    const base = registry.addImage("base", [shared]);
    await own.store.ensure(base.reference);
    const hex = base.layers[0]?.digest.replace("sha256:", "") ?? "";
    const blob = join(own.dir, "blobs/sha256", hex);
    // As after a power cut: the length is right, the bytes are not.
    await Bun.write(blob, new Uint8Array(base.layers[0]?.size ?? 0));
    const next = registry.addImage("next", [shared, layerOf("more")]);
    const built = await own.store.ensure(next.reference);
    const text = await runTool(["unsquashfs", "-no-progress", "-cat", built.squashfsPath, "a"]);
    expect(text).toBe("more");
    expect(await Bun.file(blob).bytes()).toEqual(new Uint8Array(shared.blob));
  });
});
