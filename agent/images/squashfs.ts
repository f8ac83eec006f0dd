/**
 * Writes a squashfs 4.0 image: superblock, data, then inode, directory, fragment, id and xattr
 * tables (Linux fs/squashfs/squashfs_fs.h; the order and the exact ends of the index tables are
 * what the kernel checks at mount). Deterministic: names sorted by their bytes, no time of day.
 *
 * Own code instead of squashfs-tools: `sqfstar` and `mksquashfs -tar` of 4.5.1 give the root
 * directory owner 0 and the time of the build, lose its xattrs, and sqfstar takes no zstd level.
 * Writing in the worker also needs no child process that could outlive it.
 */
import type { FileHandle } from "node:fs/promises";
import { LvError } from "../../proto/errors.ts";
import { BLOCK_BYTES, DataWriter, type FileLayout } from "./squashfs-data.ts";
import { Bytes, indexedTable, MetadataStream, type Place } from "./squashfs-meta.ts";
import { XattrTable } from "./squashfs-xattr.ts";
import type { Directory, Inode, Leaf } from "./tree.ts";

/** Part of the cache key: raise it when the same layers would give other bytes. */
export const WRITER_VERSION = "squashfs-2 zstd-1 128K";

/** Where the data of each file of the tree went. */
export type Layouts = { get(leaf: Leaf): FileLayout | undefined };

const SUPERBLOCK_BYTES = 96;
const NONE_32 = 0xffff_ffff;
const NONE_64 = Buffer.alloc(8, 0xff);
const TYPES = { directory: 1, file: 2, symlink: 3, block: 4, char: 5, fifo: 6 } as const;
/** Added to a type for its extended form. */
const EXTENDED = 7;
const PAD_BYTES = 4096;

/** Writes the tables and the superblock; returns the bytes used. All data is written before. */
export async function finishSquashfs(
  file: FileHandle,
  data: DataWriter,
  root: Directory,
  layouts: Layouts,
): Promise<number> {
  await data.flush();
  const tables = new Tables(layouts);
  const rootPlace = tables.addRoot(root);
  const inodeTable = data.position;
  await data.append(tables.inodes.finish());
  const directoryTable = data.position;
  await data.append(tables.directories.finish());
  const fragmentTable = await putIndexed(data, fragmentBytes(data));
  const idTable = await putIndexed(data, tables.idBytes());
  const xattrTable = await tables.xattrs.write(data);
  const used = data.position;
  await data.append(new Uint8Array((PAD_BYTES - (used % PAD_BYTES)) % PAD_BYTES));
  await data.flush();
  const superblock = new Bytes()
    .u32(0x7371_7368)
    .u32(tables.inodeCount)
    .u32(0)
    .u32(BLOCK_BYTES)
    .u32(data.fragments.length)
    .u16(6) // zstd
    .u16(Math.log2(BLOCK_BYTES))
    .u16(0) // no flags
    .u16(tables.idCount)
    .u16(4)
    .u16(0)
    .u64(rootPlace.block * 65_536 + rootPlace.offset)
    .u64(used)
    .u64(idTable)
    .u64(xattrTable)
    .u64(inodeTable)
    .u64(directoryTable)
    .u64(fragmentTable)
    .bytes(NONE_64); // no export table
  await file.write(superblock.view(), 0, SUPERBLOCK_BYTES, 0);
  return used;
}

/** A writer for the data, placed after the superblock. */
export function startSquashfs(file: FileHandle): DataWriter {
  return new DataWriter(file, SUPERBLOCK_BYTES);
}

async function putIndexed(data: DataWriter, bytes: Uint8Array): Promise<number> {
  const { blocks, index } = indexedTable(bytes, data.position);
  await data.append(blocks);
  const position = data.position;
  await data.append(index);
  return position;
}

function fragmentBytes(data: DataWriter): Uint8Array {
  const bytes = new Bytes();
  for (const { start, sizeWord } of data.fragments) bytes.u64(start).u32(sizeWord).u32(0);
  return bytes.view();
}

class Tables {
  readonly inodes = new MetadataStream();
  readonly directories = new MetadataStream();
  readonly xattrs = new XattrTable();
  readonly #layouts: Layouts;
  readonly #ids = new Map<number, number>();
  readonly #numbers = new Map<Inode, number>();
  readonly #links = new Map<Inode, number>();
  readonly #places = new Map<Inode, Place>();
  constructor(layouts: Layouts) {
    this.#layouts = layouts;
  }

  get inodeCount(): number {
    return this.#numbers.size;
  }

  get idCount(): number {
    return this.#ids.size;
  }

  idBytes(): Uint8Array {
    const bytes = new Bytes();
    for (const id of this.#ids.keys()) bytes.u32(id);
    return bytes.view();
  }

  addRoot(root: Directory): Place {
    this.#numbers.set(root, 1);
    this.#number(root);
    // The root's parent is a number that no inode has, as mksquashfs does it.
    return this.#addDirectory(root, this.#numbers.size + 1);
  }

  /** Numbers inodes before they are written: a directory names its parent's number. */
  #number(directory: Directory): void {
    const below: Directory[] = [];
    for (const name of sortedNames(directory)) {
      const inode = directory.entries.get(name)?.inode;
      if (inode === undefined) continue;
      this.#links.set(inode, (this.#links.get(inode) ?? 0) + 1);
      if (!this.#numbers.has(inode)) this.#numbers.set(inode, this.#numbers.size + 1);
      if (inode.kind === "directory") below.push(inode);
    }
    for (const child of below) this.#number(child);
  }

  #addDirectory(directory: Directory, parentNumber: number): Place {
    const number = this.#numbers.get(directory) ?? 0;
    const listed: Listed[] = [];
    let subdirectories = 0;
    for (const name of sortedNames(directory)) {
      const inode = directory.entries.get(name)?.inode;
      if (inode === undefined) continue;
      if (inode.kind === "directory") subdirectories += 1;
      const place =
        inode.kind === "directory" ? this.#addDirectory(inode, number) : this.#addLeaf(inode);
      listed.push({ name, place, number: this.#numbers.get(inode) ?? 0, type: TYPES[inode.kind] });
    }
    const start = this.directories.place();
    const listing = listingBytes(listed);
    this.directories.put(listing);
    // 3 stands for "." and "..", which are not stored.
    const size = listing.length + 3;
    const links = subdirectories + 2;
    const xattr = this.xattrs.add(directory.xattrs);
    const isBasic = xattr === null && size <= 0xffff;
    const bytes = this.#head(directory, isBasic);
    if (isBasic) bytes.u32(start.block).u32(links).u16(size).u16(start.offset).u32(parentNumber);
    else {
      bytes.u32(links).u32(size).u32(start.block).u32(parentNumber);
      // No index: a lookup in a huge directory reads it from the start.
      bytes
        .u16(0)
        .u16(start.offset)
        .u32(xattr ?? NONE_32);
    }
    return this.#write(directory, bytes);
  }

  #addLeaf(inode: Leaf): Place {
    const written = this.#places.get(inode);
    if (written !== undefined) return written;
    const xattr = this.xattrs.add(inode.xattrs);
    const links = this.#links.get(inode) ?? 1;
    if (inode.kind === "file") return this.#addFile(inode, links, xattr);
    const bytes = this.#head(inode, xattr === null).u32(links);
    switch (inode.kind) {
      case "symlink":
        bytes.u32(inode.target.length).bytes(inode.target);
        break;
      case "char":
      case "block": {
        const { major, minor } = inode;
        // new_encode_dev() of the kernel.
        bytes.u32(((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0);
        break;
      }
      case "fifo":
        break;
      default: {
        const rest: never = inode;
        return rest;
      }
    }
    if (xattr !== null) bytes.u32(xattr);
    return this.#write(inode, bytes);
  }

  #addFile(inode: Leaf, links: number, xattr: number | null): Place {
    const layout = this.#layouts.get(inode);
    if (layout === undefined) throw new LvError("INTERNAL", "A file has no layout");
    const { start, size, blocks, holeBytes, fragment } = layout;
    const fitsBasic = size <= NONE_32 && start <= NONE_32 && holeBytes === 0;
    const isBasic = fitsBasic && links === 1 && xattr === null;
    const bytes = this.#head(inode, isBasic);
    const fragmentIndex = fragment?.index ?? NONE_32;
    const fragmentOffset = fragment?.offset ?? 0;
    if (isBasic) bytes.u32(start).u32(fragmentIndex).u32(fragmentOffset).u32(size);
    else {
      bytes.u64(start).u64(size).u64(holeBytes).u32(links);
      bytes
        .u32(fragmentIndex)
        .u32(fragmentOffset)
        .u32(xattr ?? NONE_32);
    }
    for (const word of blocks) bytes.u32(word);
    return this.#write(inode, bytes);
  }

  #head(inode: Inode, isBasic: boolean): Bytes {
    return new Bytes()
      .u16(TYPES[inode.kind] + (isBasic ? 0 : EXTENDED))
      .u16(inode.mode)
      .u16(this.#id(inode.uid))
      .u16(this.#id(inode.gid))
      .u32(Math.min(Math.max(inode.mtime, 0), NONE_32)) // all the format can hold
      .u32(this.#numbers.get(inode) ?? 0);
  }

  #id(id: number): number {
    const known = this.#ids.get(id);
    if (known !== undefined) return known;
    if (this.#ids.size === 65_535)
      throw new LvError("IMAGE_UNSUPPORTED", "The image has more than 65535 owners and groups");
    this.#ids.set(id, this.#ids.size);
    return this.#ids.size - 1;
  }

  #write(inode: Inode, bytes: Bytes): Place {
    const place = this.inodes.place();
    this.inodes.put(bytes.view());
    this.#places.set(inode, place);
    return place;
  }
}

/** One character is one byte, so the default order is the byte order the kernel relies on. */
function sortedNames(directory: Directory): string[] {
  return [...directory.entries.keys()].sort();
}

type Listed = { name: string; place: Place; number: number; type: number };

/** Runs of at most 256 entries whose inodes share a metadata block and near numbers. */
function listingBytes(listed: readonly Listed[]): Uint8Array {
  const bytes = new Bytes();
  for (let at = 0; at < listed.length;) {
    const first = listed[at];
    if (first === undefined) break;
    let end = at;
    for (; end < listed.length && end - at < 256; end += 1) {
      const entry = listed[end];
      if (entry === undefined || entry.place.block !== first.place.block) break;
      if (Math.abs(entry.number - first.number) > 0x7fff) break;
    }
    bytes
      .u32(end - at - 1)
      .u32(first.place.block)
      .u32(first.number);
    for (const { name, place, number, type } of listed.slice(at, end)) {
      bytes
        .u16(place.offset)
        .s16(number - first.number)
        .u16(type);
      bytes.u16(name.length - 1).bytes(name);
    }
    at = end;
  }
  return bytes.view();
}
