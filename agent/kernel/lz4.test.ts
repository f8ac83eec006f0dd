import { describe, expect, test } from "bun:test";
import { decodeLz4Legacy, Lz4Error } from "./lz4.ts";

const lz4 = Bun.which("lz4");

/** Text that compresses, noise that does not, and runs longer than 255 in every mixture. */
function sample(bytes: number, seed: number): Uint8Array {
  const data = new Uint8Array(bytes);
  let state = seed;
  const random = (): number => (state = (state * 1_103_515_245 + 12_345) & 0x7fffffff) >>> 8;
  for (let at = 0; at < bytes;) {
    const length = random() % (random() % 7 === 0 ? 4_000 : 60);
    const end = Math.min(at + length + 1, bytes);
    const kind = random() % 3;
    const from = random() % (at + 1);
    for (let i = 0; at < end; at += 1, i += 1)
      data[at] = kind === 0 ? random() : kind === 1 ? 65 : (data[from + i] ?? 0);
  }
  return data;
}

function compress(data: Uint8Array): Uint8Array {
  const { stdout, exitCode } = Bun.spawnSync(["lz4", "-l", "-9", "-c"], { stdin: data });
  if (exitCode !== 0) throw new Error("lz4 failed");
  return stdout;
}

describe("the legacy frame", () => {
  test.skipIf(lz4 === null)("of the lz4 command comes out as it went in", () => {
    for (const bytes of [1, 12, 13, 300, 65_536, 1_000_001, (8 << 20) + 12_345]) {
      const data = sample(bytes, bytes);
      const unpacked = decodeLz4Legacy(compress(data), bytes);
      expect(Bun.hash(unpacked)).toBe(Bun.hash(data));
    }
  });

  test.skipIf(lz4 === null)("may be followed by the kernel build's size word", () => {
    const data = sample(5_000, 7);
    const tail = new Uint8Array(4);
    new DataView(tail.buffer).setUint32(0, data.length, true);
    expect(decodeLz4Legacy(Buffer.concat([compress(data), tail]), data.length)).toEqual(data);
  });

  test.skipIf(lz4 === null)("cut anywhere is an error, never a short answer", () => {
    const data = sample(2_000, 3);
    const packed = compress(data);
    for (let cut = 0; cut < packed.length; cut += 1)
      expect(() => decodeLz4Legacy(packed.subarray(0, cut), data.length)).toThrow(Lz4Error);
  });

  test.skipIf(lz4 === null)(
    "with any bit turned gives an answer of the size or an Lz4Error",
    () => {
      const data = sample(400, 5);
      const packed = compress(data);
      for (let bit = 0; bit < packed.length * 8; bit += 1) {
        const broken = Uint8Array.from(packed);
        broken[bit >> 3] = (broken[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        try {
          expect(decodeLz4Legacy(broken, data.length).length).toBe(data.length);
        } catch (error) {
          expect(error).toBeInstanceOf(Lz4Error);
        }
      }
    },
  );

  test("whose match begins before its block is refused", () => {
    const block = [0x10, 65, 9, 0, 0x00];
    const frame = Uint8Array.from([0x02, 0x21, 0x4c, 0x18, block.length, 0, 0, 0, ...block]);
    expect(() => decodeLz4Legacy(frame, 100)).toThrow("a match begins before its block");
  });
});
