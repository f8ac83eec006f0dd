/** Sparse files in tars: GNU's old format and PAX 0.0, 0.1 and 1.0 (GNU tar manual, "Sparse Formats"). */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import type { ByteReader } from "./byte-reader.ts";
import { BLOCK, bytesToName, parseNumber, showName, TarError } from "./tar-header.ts";

/** `length` bytes of the file at `offset`, found at `at` in the uncompressed layer. */
export type Segment = { offset: number; length: number; at: number };

type Piece = { offset: number; length: number };

/** Checks the map (ascending, inside the size, adding up to the stored bytes) and places it. */
export function placePieces(
  map: Piece[],
  start: number,
  stored: number,
  entry: { name: string; size: number },
): Segment[] {
  let at = start;
  let end = 0;
  const segments: Segment[] = [];
  if (entry.size > LIMITS.imageUnpackedBytes)
    throw new LvError("IMAGE_TOO_LARGE", `${showName(entry.name)} is ${entry.size} bytes long`);
  for (const { offset, length } of map) {
    if (offset < end || length < 0 || offset + length > entry.size)
      throw new TarError(`the sparse map of ${showName(entry.name)} is wrong`);
    if (length > 0) segments.push({ offset, length, at });
    at += length;
    end = offset + length;
  }
  if (at - start !== stored)
    throw new TarError(`the sparse map of ${showName(entry.name)} does not fit its data`);
  return segments;
}

/** GNU old sparse header: four pieces at 386, "extended" at 482, real size at 483. */
export function oldSparseStart(block: Uint8Array): {
  pieces: Piece[];
  more: boolean;
  realSize: number;
} {
  return {
    pieces: oldPieces(block, 386, 4),
    more: block[482] !== 0,
    realSize: parseNumber(block, 483, 12, "real size"),
  };
}

function oldPieces(block: Uint8Array, at: number, count: number): Piece[] {
  const pieces: Piece[] = [];
  for (let i = 0; i < count; i += 1) {
    const from = at + i * 24;
    if (block[from] === 0) break;
    pieces.push({
      offset: parseNumber(block, from, 12, "sparse offset"),
      length: parseNumber(block, from + 12, 12, "sparse length"),
    });
  }
  return pieces;
}

export async function oldSparseMap(
  reader: ByteReader,
  start: ReturnType<typeof oldSparseStart>,
): Promise<Piece[]> {
  const pieces = start.pieces;
  for (let more = start.more; more;) {
    const block = await reader.take(BLOCK);
    if (block.length < BLOCK) throw new TarError("the layer's tar ends in a sparse map");
    pieces.push(...oldPieces(block, 0, 21));
    checkPieces(pieces.length);
    more = block[504] !== 0;
  }
  return pieces;
}

function checkPieces(count: number): void {
  if (count > LIMITS.paxHeaderBytes / 4)
    throw new LvError("IMAGE_TOO_LARGE", `A sparse map of ${count} pieces is over the limit`);
}

/** 0.1: "GNU.sparse.map=offset,length,…"; 0.0: repeated offset and numbytes records. */
export function sparseMap0(records: [string, string][]): Piece[] {
  const numbers: number[] = [];
  for (const [key, value] of records) {
    // No spread: a hostile map has more numbers than a call may have arguments.
    if (key === "GNU.sparse.map") for (const text of value.split(",")) numbers.push(decimal(text));
    if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") numbers.push(decimal(value));
  }
  return pairs(numbers);
}

/** 1.0: the map is decimal lines at the start of the data, padded to a block. */
export async function sparseMap10(reader: ByteReader): Promise<Piece[]> {
  let text = "";
  const line = async (): Promise<number> => {
    for (;;) {
      const end = text.indexOf("\n");
      if (end >= 0) {
        const value = decimal(text.slice(0, end));
        text = text.slice(end + 1);
        return value;
      }
      const block = await reader.take(BLOCK);
      if (block.length < BLOCK || text.length > BLOCK)
        throw new TarError("a sparse map is cut off");
      text += bytesToName(block);
    }
  };
  const count = await line();
  checkPieces(count);
  const numbers: number[] = [];
  for (let i = 0; i < count * 2; i += 1) numbers.push(await line());
  return pairs(numbers);
}

function decimal(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new TarError(`a sparse map holds ${showName(text)}`);
  return Number(text);
}

function pairs(numbers: number[]): Piece[] {
  checkPieces(numbers.length / 2);
  const pieces: Piece[] = [];
  for (let i = 0; i + 1 < numbers.length; i += 2)
    pieces.push({ offset: numbers[i] ?? 0, length: numbers[i + 1] ?? 0 });
  return pieces;
}
