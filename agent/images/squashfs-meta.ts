/**
 * The metadata side of squashfs 4.0: streams cut into blocks of 8 KiB, each compressed when
 * that helps, and the tables made of them. Formats: Linux fs/squashfs/squashfs_fs.h.
 */
export const ZSTD_LEVEL = 1;
const METADATA_BYTES = 8192;

/** A place in a metadata stream: where its block starts in the file's table, and where in it. */
export type Place = { block: number; offset: number };

/** Growing little-endian buffer. */
export class Bytes {
  #buffer = Buffer.alloc(256);
  length = 0;

  #room(count: number): number {
    const at = this.length;
    this.length += count;
    if (this.length > this.#buffer.length) {
      const grown = Buffer.alloc(Math.max(this.length, this.#buffer.length * 2));
      this.#buffer.copy(grown, 0, 0, at);
      this.#buffer = grown;
    }
    return at;
  }

  u16(value: number): this {
    const at = this.#room(2);
    this.#buffer.writeUInt16LE(value, at);
    return this;
  }

  s16(value: number): this {
    const at = this.#room(2);
    this.#buffer.writeInt16LE(value, at);
    return this;
  }

  u32(value: number): this {
    const at = this.#room(4);
    this.#buffer.writeUInt32LE(value, at);
    return this;
  }

  u64(value: number): this {
    const at = this.#room(8);
    this.#buffer.writeBigUInt64LE(BigInt(value), at);
    return this;
  }

  /** A byte string or bytes. */
  bytes(value: string | Uint8Array): this {
    const raw = typeof value === "string" ? Buffer.from(value, "latin1") : value;
    const at = this.#room(raw.length);
    this.#buffer.set(raw, at);
    return this;
  }

  /** A view of what was written; valid until the next write. */
  view(): Buffer {
    return this.#buffer.subarray(0, this.length);
  }
}

/** Compresses when it pays. Gives the bytes to store and whether they are compressed. */
export function pack(bytes: Uint8Array): { stored: Uint8Array; compressed: boolean } {
  const small = Bun.zstdCompressSync(bytes as Uint8Array<ArrayBuffer>, { level: ZSTD_LEVEL });
  return small.length < bytes.length
    ? { stored: small, compressed: true }
    : { stored: bytes, compressed: false };
}

/** A stream of metadata; what is put may cross block borders, as the format allows. */
export class MetadataStream {
  readonly #blocks: Uint8Array[] = [];
  #current = Buffer.alloc(METADATA_BYTES);
  #fill = 0;
  #stored = 0;

  /** Where the next byte goes. */
  place(): Place {
    return { block: this.#stored, offset: this.#fill };
  }

  put(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(bytes.length - at, METADATA_BYTES - this.#fill);
      this.#current.set(bytes.subarray(at, at + count), this.#fill);
      this.#fill += count;
      at += count;
      if (this.#fill === METADATA_BYTES) this.#flush();
    }
  }

  #flush(): void {
    if (this.#fill === 0) return;
    const { stored, compressed } = pack(this.#current.subarray(0, this.#fill));
    const block = new Uint8Array(2 + stored.length);
    // Bit 15 set = not compressed.
    new DataView(block.buffer).setUint16(0, stored.length | (compressed ? 0 : 0x8000), true);
    block.set(stored, 2);
    this.#blocks.push(block);
    this.#stored += block.length;
    this.#fill = 0;
  }

  /** All blocks, as they go into the file. */
  finish(): Uint8Array {
    this.#flush();
    return Buffer.concat(this.#blocks);
  }
}

/**
 * A table found through an index: its metadata blocks, then the absolute position of each
 * block as u64. `position` = where in the file the result will lie.
 */
export function indexedTable(
  bytes: Uint8Array,
  position: number,
): { blocks: Uint8Array; index: Uint8Array } {
  const stream = new MetadataStream();
  const starts = new Bytes();
  for (let at = 0; at < bytes.length; at += METADATA_BYTES) {
    starts.u64(position + stream.place().block);
    stream.put(bytes.subarray(at, at + METADATA_BYTES));
  }
  return { blocks: stream.finish(), index: starts.view() };
}
