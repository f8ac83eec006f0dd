/**
 * LZ4's legacy frame, the form the kernel build writes (lz4 -l): magic
 * 0x184c2102, then blocks of {u32 compressed size, data}, each of at most 8 MiB
 * unpacked. Bun has no LZ4, and the format is small. Sources: lz4_Frame_format.md
 * ("Legacy frame") and lz4_Block_format.md of the lz4 project.
 */
export const LZ4_LEGACY_MAGIC = 0x184c2102;
const BLOCK_MAX_BYTES = 8 << 20;
const MIN_MATCH = 4;

export class Lz4Error extends Error {
  constructor(message: string) {
    super(message);
    this.name = "Lz4Error";
  }
}

/**
 * `source` begins with the magic; `bytes` is the exact unpacked size, which the
 * caller knows. Reading stops once that many are there: a kernel's payload is
 * followed by its size, which must not be taken for another block. Throws
 * Lz4Error for anything malformed.
 */
export function decodeLz4Legacy(source: Uint8Array, bytes: number): Uint8Array {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  if (source.length < 4 || view.getUint32(0, true) !== LZ4_LEGACY_MAGIC)
    throw new Lz4Error("LZ4: the legacy frame's magic is missing");
  const target = new Uint8Array(bytes);
  let at = 4;
  let filled = 0;
  while (filled < bytes) {
    if (at + 4 > source.length) throw new Lz4Error("LZ4: the frame ends early");
    const size = view.getUint32(at, true);
    at += 4;
    if (size === 0 || size > source.length - at)
      throw new Lz4Error(`LZ4: a block of ${size} bytes does not fit the frame`);
    const limit = Math.min(filled + BLOCK_MAX_BYTES, bytes);
    filled = decodeBlock(source, at, at + size, target, filled, limit);
    at += size;
  }
  return target;
}

/** Decodes one block into target[from..limit) and returns where it ended. */
function decodeBlock(
  source: Uint8Array,
  start: number,
  end: number,
  target: Uint8Array,
  from: number,
  limit: number,
): number {
  let at = start;
  let out = from;
  const extend = (nibble: number): number => {
    let length = nibble;
    if (nibble !== 15) return length;
    for (;;) {
      if (at >= end) throw new Lz4Error("LZ4: a length runs past its block");
      const more = source[at++] ?? 0;
      length += more;
      if (more !== 255) return length;
    }
  };
  while (at < end) {
    const token = source[at++] ?? 0;
    const literals = extend(token >> 4);
    if (literals > end - at || literals > limit - out)
      throw new Lz4Error("LZ4: literals run past their block");
    target.set(source.subarray(at, at + literals), out);
    at += literals;
    out += literals;
    if (at === end) return out; // the last sequence has literals only
    if (end - at < 2) throw new Lz4Error("LZ4: a match is cut off");
    const offset = (source[at] ?? 0) | ((source[at + 1] ?? 0) << 8);
    at += 2;
    const length = extend(token & 15) + MIN_MATCH;
    if (offset === 0 || offset > out - from)
      throw new Lz4Error("LZ4: a match begins before its block");
    if (length > limit - out) throw new Lz4Error("LZ4: a match runs past its block");
    copyMatch(target, out, offset, length);
    out += length;
  }
  throw new Lz4Error("LZ4: a block has no last literals");
}

/** A match may overlap what it makes: offset 1 repeats one byte. */
function copyMatch(target: Uint8Array, out: number, offset: number, length: number): void {
  if (offset >= length) {
    target.copyWithin(out, out - offset, out - offset + length);
    return;
  }
  for (let i = 0; i < length; i += 1) target[out + i] = target[out + i - offset] ?? 0;
}
