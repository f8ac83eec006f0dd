/**
 * The xattr tables of squashfs: sets of name and value, shared by all inodes with the same set.
 * There is always one set that no inode names: without a table, and with an empty one, Linux
 * gives the whole mount no xattr operations, and listing them fails instead of finding none.
 */
import type { DataWriter } from "./squashfs-data.ts";
import { Bytes, indexedTable, MetadataStream } from "./squashfs-meta.ts";

const PREFIXES = ["user.", "trusted.", "security."] as const;

export class XattrTable {
  readonly #sets = new Map<string, number>();
  readonly #pairs = new MetadataStream();
  readonly #ids = new Bytes();
  constructor() {
    this.add(new Map([["user.leveret", "unused"]]));
  }

  /** The set's number; null for an empty set. Names and values are byte strings. */
  add(xattrs: ReadonlyMap<string, string>): number | null {
    if (xattrs.size === 0) return null;
    const bytes = new Bytes();
    for (const name of [...xattrs.keys()].sort()) {
      const type = PREFIXES.findIndex((prefix) => name.startsWith(prefix));
      const rest = name.slice(PREFIXES[type]?.length ?? 0);
      const value = xattrs.get(name) ?? "";
      bytes.u16(type).u16(rest.length).bytes(rest).u32(value.length).bytes(value);
    }
    const key = bytes.view().toString("latin1");
    const known = this.#sets.get(key);
    if (known !== undefined) return known;
    const number = this.#sets.size;
    this.#sets.set(key, number);
    const { block, offset } = this.#pairs.place();
    this.#ids
      .u64(block * 65_536 + offset)
      .u32(xattrs.size)
      .u32(bytes.length);
    this.#pairs.put(bytes.view());
    return number;
  }

  /** Position of the xattr id table. The file's tables end with it. */
  async write(data: DataWriter): Promise<number> {
    const pairsAt = data.position;
    await data.append(this.#pairs.finish());
    const { blocks, index } = indexedTable(this.#ids.view(), data.position);
    await data.append(blocks);
    const position = data.position;
    await data.append(new Bytes().u64(pairsAt).u32(this.#sets.size).u32(0).view());
    await data.append(index);
    return position;
  }
}
