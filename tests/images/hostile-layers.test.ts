/** Layers that mean harm, pulled as they would be in production: typed errors, nothing left, bounds kept. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { createZstdCompress } from "node:zlib";
import { tarHeader, type TarItem } from "../../agent/images/tar-writer.ts";
import { digestOf, FakeRegistry, gzipLayer, type Layer } from "../kit/images/fake-registry.ts";
import { makeTar } from "../kit/images/layers.ts";
import { QUICK, reasonOf, TestStore } from "../kit/images/store.ts";

setDefaultTimeout(240_000);

type Item = TarItem & { data?: string };

const file = (name: string, data = ""): Item => ({ name, kind: "file", data });
const dir = (name: string): Item => ({ name, kind: "directory" });
const link = (name: string, linkName: string): Item => ({ name, kind: "hardlink", linkName });
const symlink = (name: string, linkName: string): Item => ({ name, kind: "symlink", linkName });
const layer = (...items: Item[]): Layer => gzipLayer(makeTar(items));

/** `count` times the same bytes as one zstd blob, without ever holding them. */
async function repeated(
  chunk: Uint8Array,
  count: number,
  head: Uint8Array = new Uint8Array(0),
): Promise<Layer> {
  const hasher = new Bun.CryptoHasher("sha256").update(head);
  const packer = createZstdCompress();
  const parts: Buffer[] = [];
  packer.on("data", (part: Buffer) => parts.push(part));
  const ended = new Promise<void>((resolve) => packer.on("end", () => resolve()));
  packer.write(head);
  for (let i = 0; i < count; i += 1) {
    hasher.update(chunk);
    if (!packer.write(chunk))
      await new Promise<void>((resolve) => packer.once("drain", () => resolve()));
  }
  packer.end();
  await ended;
  return { blob: Buffer.concat(parts), diffId: `sha256:${hasher.digest("hex")}` };
}

async function pull(layers: Layer[]): Promise<{ reason: string; left: string[]; files: string[] }> {
  await using registry = new FakeRegistry();
  await using own = new TestStore({ timeouts: QUICK });
  const { reference } = registry.addImage("a", layers);
  const reason = await reasonOf(own.store.ensure(reference));
  return { reason, left: reason === "built" ? [] : own.leftovers(), files: own.files("images") };
}

const rssMib = (): number => process.memoryUsage.rss() / 2 ** 20;

describe("paths and links that lead out of the image", () => {
  const bad: [string, Layer[]][] = [
    ["a path of dots", [layer(file("../../etc/cron.d/x"))]],
    ["a path of dots behind a directory", [layer(dir("a"), file("a/../../x"))]],
    ["a hard link to the host's files", [layer(link("passwd", "../../../etc/passwd"))]],
    [
      "a hard link to an absolute path that the image does not have",
      [layer(link("p", "/etc/passwd"))],
    ],
    ["a whiteout of what is above the root", [layer(file("../.wh.etc"))]],
    ["a whiteout without a name", [layer(file("a/.wh."))]],
    ["a hard link to itself", [layer(link("a", "a"))]],
    ["two hard links in a circle", [layer(link("a", "b"), link("b", "a"))]],
    [
      "symbolic links in a circle on the way",
      [layer(symlink("a", "b"), symlink("b", "a"), file("a/x"))],
    ],
    ["a symbolic link to itself on the way", [layer(symlink("a", "a/a"), file("a/x"))]],
    ["a NUL inside a PAX path", [layer(file("a\0é"))]],
  ];
  for (const [what, layers] of bad)
    test(`${what}: IMAGE_CORRUPT`, async () => {
      const end = await pull(layers);
      expect([end.reason, end.left]).toEqual(["IMAGE_CORRUPT", []]);
    });

  test("a symbolic link out of the root, written through, stays inside the image", async () => {
    const end = await pull([
      layer(symlink("out", "../../../../../../tmp"), symlink("abs", "/tmp")),
      layer(file("out/lev-escape", "x"), file("abs/lev-escape-2", "x")),
    ]);
    expect(end.reason).toBe("built");
    expect(await Bun.file("/tmp/lev-escape").exists()).toBe(false);
    expect(await Bun.file("/tmp/lev-escape-2").exists()).toBe(false);
  });
});

describe("bombs", () => {
  test("a compression ratio over 1000 is IMAGE_TOO_LARGE, in bounded memory and disk", async () => {
    const zeros = Buffer.alloc(8 << 20);
    // gzip itself ends at about 1030; zstd has no such end.
    const head = tarHeader({ name: "z", kind: "file", size: 100 * zeros.length });
    const bombs = [await repeated(zeros, 100, head)];
    await using registry = new FakeRegistry();
    await using own = new TestStore({ timeouts: QUICK });
    const { reference } = registry.addImage("a", bombs);
    const before = rssMib();
    const reason = await reasonOf(own.store.ensure(reference));
    expect([reason, own.leftovers()]).toEqual(["IMAGE_TOO_LARGE", []]);
    expect(own.bytes()).toBeLessThan(8 << 20);
    expect(rssMib() - before).toBeLessThan(300);
  });

  test("a size that a file only claims is refused without writing it", async () => {
    const header = tarHeader({ name: "huge", kind: "file", size: 2 ** 40 });
    const end = await pull([gzipLayer(header)]);
    expect([end.reason, end.left]).toEqual(["IMAGE_TOO_LARGE", []]);
  });

  test("a size larger than what follows is IMAGE_CORRUPT", async () => {
    const header = tarHeader({ name: "cut", kind: "file", size: 1 << 20 });
    const end = await pull([gzipLayer(Buffer.concat([header, Buffer.alloc(4096)]))]);
    expect([end.reason, end.left]).toEqual(["IMAGE_CORRUPT", []]);
  });

  test("more entries than any image has are IMAGE_TOO_LARGE in bounded memory", async () => {
    // One block per entry: 1.2 million entries in a few MB.
    const entries = Buffer.concat(
      Array.from({ length: 4096 }, (_, i) => tarHeader({ name: `f${i}`, kind: "file" })),
    );
    const before = rssMib();
    const end = await pull([await repeated(entries, 300)]);
    expect([end.reason, end.left]).toEqual(["IMAGE_TOO_LARGE", []]);
    expect(rssMib() - before).toBeLessThan(600);
  });

  test("xattrs without end are IMAGE_TOO_LARGE in bounded memory", async () => {
    const names = Array.from({ length: 60 }, (_, i) => [`user.${i}`, "v".repeat(16_000)]);
    const entry = tarHeader({ name: "x", kind: "file", xattrs: Object.fromEntries(names) });
    const before = rssMib();
    const end = await pull([await repeated(entry, 600)]);
    expect([end.reason, end.left]).toEqual(["IMAGE_TOO_LARGE", []]);
    expect(rssMib() - before).toBeLessThan(800);
  });

  for (const [what, name] of [
    ["257 directories deep", "d/".repeat(257)],
    ["of 5000 bytes", "e".repeat(200) + "/e".repeat(2400)],
  ] as const)
    test(`a path ${what} is IMAGE_CORRUPT`, async () => {
      const end = await pull([layer(file(`${name}x`))]);
      expect([end.reason, end.left]).toEqual(["IMAGE_CORRUPT", []]);
    });

  test("depth through symbolic links is bounded too", async () => {
    const deep = "d/".repeat(200);
    const end = await pull([layer(file(`${deep}x`), symlink("s", deep), file(`s/${deep}y`))]);
    expect([end.reason, end.left]).toEqual(["IMAGE_CORRUPT", []]);
  });

  test("an opaque mark said 200,000 times over 20,000 files costs seconds, not hours", async () => {
    const files = Array.from({ length: 20_000 }, (_, i) => file(`d/${i}`));
    const mark = Buffer.concat(
      Array.from({ length: 200 }, () => tarHeader({ name: "d/.wh..wh..opq", kind: "file" })),
    );
    const upper = Buffer.from(makeTar([dir("d"), ...files.map(({ name }) => file(`${name}-new`))]));
    const started = performance.now();
    const end = await pull([layer(...files), await repeated(mark, 1000, upper.subarray(0, -1024))]);
    expect(end.reason).toBe("built");
    expect(performance.now() - started).toBeLessThan(40_000);
  });

  test("a sparse map of half a million numbers is a typed error", async () => {
    const map = Array.from({ length: 100_000 }, (_, i) => `${i * 2},1`).join(",");
    const records = (pairs: [string, string][]): Buffer =>
      Buffer.concat(
        pairs.map(([key, value]) => {
          const rest = ` ${key}=${value}\n`;
          let length = rest.length;
          while (String(length).length + rest.length !== length)
            length = String(length).length + rest.length;
          return Buffer.from(`${length}${rest}`);
        }),
      );
    const pax = records([
      ["GNU.sparse.major", "0"],
      ["GNU.sparse.size", "5"],
      ["GNU.sparse.map", map],
    ]);
    const head = tarHeader({ name: "pax", kind: "file", size: pax.length });
    head[156] = "x".charCodeAt(0);
    let sum = 0;
    head.fill(32, 148, 156);
    for (const byte of head) sum += byte;
    Buffer.from(`${sum.toString(8).padStart(6, "0")}\0 `).copy(head, 148);
    const pad = Buffer.alloc((512 - (pax.length % 512)) % 512);
    const tar = Buffer.concat([head, pax, pad, tarHeader({ name: "s", kind: "file", size: 0 })]);
    const end = await pull([gzipLayer(tar)]);
    expect([end.reason, end.left]).toEqual(["IMAGE_CORRUPT", []]);
  });
});

describe("blobs that are not what they say", () => {
  const tar = makeTar([file("a", "x".repeat(5000))]);
  const { blob, diffId } = gzipLayer(tar);
  const bad: [string, Layer][] = [
    ["gzip with garbage after it", { blob: Buffer.concat([blob, Buffer.from("garbage")]), diffId }],
    ["gzip that is cut off", { blob: blob.subarray(0, -20), diffId }],
    ["a layer with another diff_id", { blob, diffId: digestOf("other") }],
    ["text instead of a tar", gzipLayer(Buffer.from("this is not a tar".repeat(100)))],
    ["a wrong header checksum", gzipLayer(Buffer.from(tar).fill(65, 0, 3))],
    ["zstd that is cut off", { blob: Bun.zstdCompressSync(tar).subarray(0, -10), diffId }],
  ];
  for (const [what, one] of bad)
    test(`${what}: IMAGE_CORRUPT`, async () => {
      const end = await pull([one]);
      expect([end.reason, end.left]).toEqual(["IMAGE_CORRUPT", []]);
    });

  test("gzip of two members, zstd behind a skippable frame and no compression all unpack", async () => {
    const half = tar.length >> 1;
    const members = Buffer.concat([
      gzipLayer(tar.subarray(0, half)).blob,
      gzipLayer(tar.subarray(half)).blob,
    ]);
    const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    const zstd = Buffer.concat([skippable, Bun.zstdCompressSync(tar)]);
    for (const packed of [members, zstd, Buffer.from(tar)])
      expect((await pull([{ blob: packed, diffId }])).reason).toBe("built");
  });

  test("an image without layers, and one with empty layers, are built", async () => {
    expect((await pull([])).reason).toBe("built");
    expect((await pull([layer(), layer(), layer(file("a"))])).reason).toBe("built");
    expect((await pull([{ blob: new Uint8Array(0), diffId: digestOf("") }])).reason).toBe("built");
  });
});
