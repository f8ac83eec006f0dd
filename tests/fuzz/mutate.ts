/** Mutations of bytes, and the numbers that choose them. */

/** A whole number below `below`. */
export type Random = (below: number) => number;

/** xorshift32: quick, and the same again for the same seed. */
export function seeded(seed: number): Random {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % Math.max(1, below);
  };
}

const NUMBERS = [
  0n,
  1n,
  0x7fn,
  0x80n,
  0xffn,
  0x200n,
  0x1000n,
  0xffffn,
  0x100000n,
  0x7fffffffn,
  0x80000000n,
  0xc0000000n,
  0xffffffffn,
  0x100000000n,
  0x1fffffffffffffn,
  0x7fffffffffffffffn,
  0xffffffffffffffffn,
];

function writeNumber(bytes: Uint8Array, random: Random): void {
  const width = 1 << random(4);
  let at = random(Math.max(1, bytes.length - width + 1));
  // Fields of headers are mostly aligned.
  if (random(2) === 0) at -= at % width;
  let value = NUMBERS[random(NUMBERS.length)] ?? 0n;
  if (random(4) === 0) value += BigInt(random(17)) - 8n;
  for (let i = 0; i < width && at + i < bytes.length; i += 1)
    bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
}

function splice(at: number, gone: number, into: Uint8Array, piece: Uint8Array): Uint8Array {
  const tail = into.subarray(at + gone);
  const out = new Uint8Array(at + piece.length + tail.length);
  out.set(into.subarray(0, at));
  out.set(piece, at);
  out.set(tail, at + piece.length);
  return out;
}

function mutateOnce(
  bytes: Uint8Array,
  other: Uint8Array,
  words: Uint8Array[],
  random: Random,
): Uint8Array {
  const at = random(bytes.length + 1);
  switch (random(8)) {
    case 0:
      if (bytes.length > 0) bytes[random(bytes.length)] = random(256);
      return bytes;
    case 1: {
      const index = random(bytes.length);
      if (bytes.length > 0) bytes[index] = (bytes[index] ?? 0) ^ (1 << random(8));
      return bytes;
    }
    case 2:
    case 3:
      writeNumber(bytes, random);
      return bytes;
    case 4:
      return splice(at, random(16), bytes, new Uint8Array(0));
    case 5: {
      const from = random(other.length);
      return splice(at, 0, bytes, other.subarray(from, from + random(64)));
    }
    case 6:
      return splice(at, random(3), bytes, words[random(words.length)] ?? new Uint8Array(1));
    default:
      // What follows is of no account, or of another input.
      return random(4) === 0 ? bytes.slice(0, at) : splice(at, other.length, bytes, other);
  }
}

/** A changed copy; `other` is an input to take pieces of. */
export function mutateBytes(
  bytes: Uint8Array,
  other: Uint8Array,
  words: Uint8Array[],
  random: Random,
): Uint8Array {
  let out: Uint8Array = bytes.slice();
  for (let i = 1 + random(4); i > 0; i -= 1) out = mutateOnce(out, other, words, random);
  return out;
}
