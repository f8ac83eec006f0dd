/**
 * One 512-byte tar header block and the PAX records: POSIX.1-2017 pax, "ustar Interchange
 * Format", and GNU tar's extensions. Names are byte strings: one character (0–255) per byte,
 * so that names which are not UTF-8 keep their bytes.
 */
import { LvError } from "../../proto/errors.ts";

export const BLOCK = 512;

const ZERO_BLOCK = Buffer.alloc(BLOCK);

export type Header = {
  name: string;
  linkName: string;
  type: string;
  mode: number;
  uid: number;
  gid: number;
  size: number;
  /** Seconds, may be negative or a fraction. */
  mtime: number;
  major: number;
  minor: number;
};

export class TarError extends LvError {
  constructor(message: string) {
    super("IMAGE_CORRUPT", message);
    this.name = "TarError";
  }
}

export function bytesToName(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}

export function nameToBytes(name: string): Uint8Array {
  return Buffer.from(name, "latin1");
}

/** A byte string for people. */
export function showName(name: string): string {
  return JSON.stringify(Buffer.from(name, "latin1").toString("utf8").slice(0, 200));
}

/** Bytes up to the first NUL. */
export function cString(block: Uint8Array, at: number, length: number): string {
  const field = block.subarray(at, at + length);
  const end = field.indexOf(0);
  return bytesToName(end < 0 ? field : field.subarray(0, end));
}

/** Octal text, or GNU's base-256 when the top bit is set (two's complement, big endian). */
export function parseNumber(block: Uint8Array, at: number, length: number, what: string): number {
  const first = block[at] ?? 0;
  if ((first & 0x80) !== 0) {
    const negative = (first & 0x40) !== 0;
    let value = BigInt(negative ? (first & 0x7f) - 128 : first & 0x7f);
    for (let i = 1; i < length; i += 1) value = value * 256n + BigInt(block[at + i] ?? 0);
    const number = Number(value);
    if (!Number.isSafeInteger(number)) throw new TarError(`tar ${what} does not fit: ${value}`);
    return number;
  }
  const plain = plainOctal(block, at, at + length);
  if (plain >= 0) return plain;
  const text = cString(block, at, length).trim();
  if (text === "") return 0;
  if (!/^-?[0-7]+$/.test(text))
    throw new TarError(`tar ${what} is not a number: ${showName(text)}`);
  return Number.parseInt(text, 8);
}

/** Digits up to a NUL or the end, as nearly every header has it; -1 = look closer. */
function plainOctal(block: Uint8Array, at: number, end: number): number {
  let value = 0;
  for (let i = at; i < end; i += 1) {
    const byte = block[i] ?? 0;
    if (byte >= 0x30 && byte <= 0x37) value = value * 8 + (byte - 0x30);
    else return byte === 0 && i > at ? value : -1;
  }
  return value;
}

export function isZeroBlock(block: Uint8Array): boolean {
  return ZERO_BLOCK.equals(block);
}

/** Throws TarError for a wrong checksum or number. */
export function parseHeader(block: Uint8Array): Header {
  checkSum(block);
  const magic = cString(block, 257, 8);
  const isPosix = magic.startsWith("ustar") && block[262] === 0;
  const prefix = isPosix ? cString(block, 345, 155) : "";
  const name = cString(block, 0, 100);
  const isOld = !magic.startsWith("ustar");
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    linkName: cString(block, 157, 100),
    type: String.fromCharCode(block[156] ?? 0),
    mode: parseNumber(block, 100, 8, "mode") & 0o7777,
    uid: parseNumber(block, 108, 8, "uid"),
    gid: parseNumber(block, 116, 8, "gid"),
    size: parseNumber(block, 124, 12, "size"),
    mtime: parseNumber(block, 136, 12, "mtime"),
    major: isOld ? 0 : parseNumber(block, 329, 8, "major"),
    minor: isOld ? 0 : parseNumber(block, 337, 8, "minor"),
  };
}

/** Sum of all bytes with the field itself as spaces; old tars summed signed bytes. */
function checkSum(block: Uint8Array): void {
  const stated = parseNumber(block, 148, 8, "checksum");
  let unsigned = 8 * 32;
  let signed = 8 * 32;
  for (let i = 0; i < BLOCK; i += 1) {
    if (i >= 148 && i < 156) continue;
    const byte = block[i] ?? 0;
    unsigned += byte;
    signed += byte < 128 ? byte : byte - 256;
  }
  if (stated !== unsigned && stated !== signed)
    throw new TarError("the layer is not a tar archive: a header checksum is wrong");
}

/** One "length key=value\n" record after the other; keys and values are byte strings. */
export function parsePax(bytes: Uint8Array): [string, string][] {
  const records: [string, string][] = [];
  for (let at = 0; at < bytes.length;) {
    // GNU tar and others pad with NUL.
    if (bytes[at] === 0) break;
    const space = bytes.indexOf(0x20, at);
    const digits = space < 0 ? "" : bytesToName(bytes.subarray(at, space));
    const length = /^\d{1,9}$/.test(digits) ? Number(digits) : 0;
    const equals = bytes.indexOf(0x3d, space);
    const end = at + length;
    const fits = end <= bytes.length && equals > space && equals < end && bytes[end - 1] === 0x0a;
    if (!fits) throw new TarError("a PAX header of the layer is malformed");
    records.push([
      bytesToName(bytes.subarray(space + 1, equals)),
      bytesToName(bytes.subarray(equals + 1, end - 1)),
    ]);
    at = end;
  }
  return records;
}
