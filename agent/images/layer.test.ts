import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { readLayer } from "./layer.ts";

const dir = mkdtempSync(join(tmpdir(), "lev-layer-"));
afterAll(() => rm(dir, { recursive: true, force: true }));

const a = Buffer.from("first ".repeat(20_000));
const b = Buffer.from("second ".repeat(20_000));
const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);

async function unpack(bytes: Buffer): Promise<string> {
  const path = join(dir, "layer");
  await Bun.write(path, bytes);
  const chunks: Uint8Array[] = [];
  for await (const chunk of readLayer(path, "sha256:test")) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

describe("readLayer", () => {
  const whole: [string, Buffer][] = [
    ["gzip of two members", Buffer.concat([gzipSync(a), gzipSync(b)])],
    ["zstd of two frames", Buffer.concat([zstdCompressSync(a), zstdCompressSync(b)])],
    [
      "zstd with skippable frames",
      Buffer.concat([skippable, zstdCompressSync(a), skippable, zstdCompressSync(b), skippable]),
    ],
    ["no compression", Buffer.concat([a, b])],
    [
      "gzip with zeros behind it",
      Buffer.concat([gzipSync(Buffer.concat([a, b])), Buffer.alloc(600)]),
    ],
  ];
  for (const [what, bytes] of whole)
    test(`unpacks ${what}`, async () => {
      expect(await unpack(bytes)).toBe(a.toString() + b.toString());
    });

  test("an empty blob is an empty layer", async () => {
    expect(await unpack(Buffer.alloc(0))).toBe("");
  });

  const damaged = gzipSync(a);
  damaged[damaged.length >> 1] = (damaged[damaged.length >> 1] ?? 0) ^ 0xff;
  const broken: [string, Buffer][] = [
    ["gzip cut off", gzipSync(a).subarray(0, -20)],
    ["gzip with a changed byte", damaged],
    ["gzip with garbage behind it", Buffer.concat([gzipSync(a), Buffer.from("garbage!")])],
    ["gzip that is only a magic", Buffer.from([0x1f, 0x8b, 9, 9, 9, 9])],
  ];
  for (const [what, bytes] of broken)
    test(`${what} is IMAGE_CORRUPT`, async () => {
      expect(await unpack(bytes).catch((error: unknown) => error)).toMatchObject({
        reason: "IMAGE_CORRUPT",
      });
    });

  test("a bomb is IMAGE_TOO_LARGE before it has gone off", async () => {
    // Zeros in a zstd frame shrink far more than a thousandfold.
    const bomb = zstdCompressSync(Buffer.alloc(300 * 2 ** 20));
    await Bun.write(join(dir, "bomb"), bomb);
    let total = 0;
    const reading = (async () => {
      for await (const chunk of readLayer(join(dir, "bomb"), "sha256:bomb")) total += chunk.length;
    })();
    expect(await reading.catch((error: unknown) => error)).toMatchObject({
      reason: "IMAGE_TOO_LARGE",
    });
    expect(total).toBeLessThanOrEqual(257 * 2 ** 20);
  });
});
