/**
 * Walks a layer's tar and gives one entry at a time, with the places of its data instead of
 * the data. Understands ustar, GNU (long names, base-256, sparse) and PAX (local and global
 * headers, xattrs, sparse 0.0, 0.1 and 1.0). Own code, because the pipeline needs raw bytes in
 * names and xattrs and exact offsets, which tar-stream decodes or hides.
 */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import type { ByteReader } from "./byte-reader.ts";
import {
  BLOCK,
  cString,
  isZeroBlock,
  parseHeader,
  parsePax,
  showName,
  TarError,
  type Header,
} from "./tar-header.ts";
import {
  oldSparseMap,
  oldSparseStart,
  placePieces,
  sparseMap0,
  sparseMap10,
  type Segment,
} from "./tar-sparse.ts";

export type TarEntry = {
  kind: "file" | "directory" | "symlink" | "hardlink" | "char" | "block" | "fifo";
  name: string;
  linkName: string;
  mode: number;
  uid: number;
  gid: number;
  /** Whole seconds, rounded down. */
  mtime: number;
  major: number;
  minor: number;
  /** Logical size of a file; gaps between segments are zeros. */
  size: number;
  segments: Segment[];
  /** Full name → value, both byte strings. */
  xattrs: Map<string, string>;
};

const KINDS: Record<string, TarEntry["kind"]> = {
  "0": "file",
  "\0": "file",
  "7": "file",
  S: "file",
  "1": "hardlink",
  "2": "symlink",
  "3": "char",
  "4": "block",
  "5": "directory",
  "6": "fifo",
};

const XATTR = "SCHILY.xattr.";

type Pax = Map<string, string>;

/**
 * Entries in the archive's order. While an entry is out, the reader stands at its data, which
 * the taker may read through; what it leaves is skipped. Throws IMAGE_CORRUPT, IMAGE_UNSUPPORTED
 * or IMAGE_TOO_LARGE.
 */
export async function* walkTar(reader: ByteReader): AsyncGenerator<TarEntry> {
  const global: Pax = new Map();
  let local: [string, string][] = [];
  let longName: string | null = null;
  let longLink: string | null = null;
  for (;;) {
    const block = await reader.take(BLOCK);
    if (block.length < BLOCK) {
      // Docker and Go accept an archive without its two closing blocks, at a block boundary.
      if (block.length === 0) return;
      throw new TarError("the layer's tar ends in the middle of a header");
    }
    if (isZeroBlock(block)) return;
    const header = parseHeader(block);
    if (header.type === "x" || header.type === "X") {
      local = parsePax(await metadata(reader, header));
    } else if (header.type === "g") {
      for (const [key, value] of parsePax(await metadata(reader, header))) global.set(key, value);
    } else if (header.type === "L") {
      longName = trimNul(await metadata(reader, header));
    } else if (header.type === "K") {
      longLink = trimNul(await metadata(reader, header));
    } else {
      if (longName !== null) header.name = longName;
      if (longLink !== null) header.linkName = longLink;
      const { entry, end } = await readEntry(reader, header, block, global, local);
      yield entry;
      if (!(await reader.skip(end - reader.position))) throw cut(entry.name);
      local = [];
      longName = null;
      longLink = null;
    }
  }
}

async function metadata(reader: ByteReader, header: Header): Promise<Uint8Array> {
  if (header.size > LIMITS.paxHeaderBytes || header.size < 0)
    throw new LvError(
      "IMAGE_TOO_LARGE",
      `A tar extension header of ${header.size} bytes is over the limit of ${LIMITS.paxHeaderBytes}`,
    );
  // A copy: the view would be overwritten by the padding's read.
  const bytes = (await reader.take(header.size)).slice();
  if (bytes.length < header.size || !(await reader.skip(padding(header.size))))
    throw new TarError("the layer's tar ends in the middle of an extension header");
  return bytes;
}

const padding = (size: number): number => (BLOCK - (size % BLOCK)) % BLOCK;

function trimNul(bytes: Uint8Array): string {
  return cString(bytes, 0, bytes.length);
}

async function readEntry(
  reader: ByteReader,
  header: Header,
  block: Uint8Array,
  global: Pax,
  localRecords: [string, string][],
): Promise<{ entry: TarEntry; end: number }> {
  const local: Pax = new Map(localRecords);
  const oldSparse = header.type === "S" ? oldSparseStart(block) : null;
  const entry = describe(header, global, local);
  if (entry.kind !== "file") {
    // Only files carry data; a size on a link is a habit of old tars (as Go's reader holds it).
    const skipped = entry.kind === "hardlink" || entry.kind === "symlink" ? 0 : header.size;
    return { entry, end: reader.position + (skipped === 0 ? 0 : skipped + padding(skipped)) };
  }
  const stored = sizeOf(header, local);
  const dataStart = reader.position;
  let map: { offset: number; length: number }[] = [{ offset: 0, length: stored }];
  entry.size = stored;
  if (oldSparse !== null) {
    map = await oldSparseMap(reader, oldSparse);
    entry.size = oldSparse.realSize;
  } else if (local.get("GNU.sparse.major") === "1") {
    map = await sparseMap10(reader);
    entry.size = paxNumber(local, "GNU.sparse.realsize") ?? stored;
  } else if (local.has("GNU.sparse.map") || local.has("GNU.sparse.size")) {
    map = sparseMap0(localRecords);
    entry.size = paxNumber(local, "GNU.sparse.size") ?? stored;
  }
  const sparseName = local.get("GNU.sparse.name");
  if (sparseName !== undefined) entry.name = sparseName;
  // GNU's old map blocks come before the data and are not counted in its size.
  const mapBytes = oldSparse === null ? reader.position - dataStart : 0;
  entry.segments = placePieces(map, reader.position, stored - mapBytes, entry);
  return { entry, end: reader.position + stored - mapBytes + padding(stored) };
}

function cut(name: string): TarError {
  return new TarError(`the layer's tar ends in the middle of ${showName(name)}`);
}

function sizeOf(header: Header, local: Pax): number {
  const size = paxNumber(local, "size") ?? header.size;
  if (size < 0 || size > LIMITS.imageUnpackedBytes)
    throw new LvError("IMAGE_TOO_LARGE", `A file of ${size} bytes is over the limit`);
  return size;
}

function describe(header: Header, global: Pax, local: Pax): TarEntry {
  const get = (key: string): string | undefined => {
    const value = local.get(key) ?? global.get(key);
    return value === "" ? undefined : value;
  };
  const number = (key: string): number | null => paxNumber(new Map([[key, get(key) ?? ""]]), key);
  const name = local.get("path") ?? header.name;
  let kind = KINDS[header.type];
  if (kind === undefined)
    throw new LvError(
      "IMAGE_UNSUPPORTED",
      `Entry ${showName(name)} has the unknown tar type ${showName(header.type)}`,
    );
  // Before ustar a directory was a file whose name ends in a slash.
  if (kind === "file" && header.type !== "S" && name.endsWith("/")) kind = "directory";
  const xattrs = new Map<string, string>();
  for (const source of [global, local])
    for (const [key, value] of source)
      if (key.startsWith(XATTR)) xattrs.set(key.slice(XATTR.length), value);
  // An empty value takes a record back (pax, "Extended Header Keywords"), as Go's reader has it.
  for (const [key, value] of xattrs) if (value === "") xattrs.delete(key);
  return {
    kind,
    name,
    linkName: local.get("linkpath") ?? header.linkName,
    mode: header.mode,
    uid: checkId(number("uid") ?? header.uid, name),
    gid: checkId(number("gid") ?? header.gid, name),
    mtime: Math.floor(number("mtime") ?? header.mtime),
    major: header.major,
    minor: header.minor,
    size: 0,
    segments: [],
    xattrs,
  };
}

function checkId(id: number, name: string): number {
  // 2^32-1 is "no id" for the kernel.
  if (Number.isInteger(id) && id >= 0 && id < 0xffff_ffff) return id;
  throw new TarError(`${showName(name)} has the impossible owner or group ${id}`);
}

function paxNumber(pax: Pax, key: string): number | null {
  const text = pax.get(key);
  if (text === undefined || text === "") return null;
  if (!/^-?\d{1,15}(\.\d*)?$/.test(text))
    throw new TarError(`PAX record ${key} is not a number: ${showName(text)}`);
  return Number(text);
}
