/**
 * The data side of squashfs: blocks of 128 KiB, compressed on the runtime's thread pool and
 * written in order. Files smaller than a block share fragment blocks; blocks of zeros are
 * holes. At most IN_FLIGHT blocks are in memory at a time.
 */
import type { FileHandle } from "node:fs/promises";
import { ZSTD_LEVEL } from "./squashfs-meta.ts";

export const BLOCK_BYTES = 128 << 10;
const IN_FLIGHT = 8;
const WRITE_BYTES = 1 << 20;
const UNCOMPRESSED = 1 << 24;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

/** Where a file's bytes went. `blocks` holds size words: 0 = hole, bit 24 = not compressed. */
export type FileLayout = {
  start: number;
  size: number;
  blocks: number[];
  holeBytes: number;
  fragment: { index: number; offset: number } | null;
};

export type FragmentEntry = { start: number; sizeWord: number };

type Pending = {
  bytes: Buffer<ArrayBuffer>;
  packed: Promise<Uint8Array>;
  done: (at: number, word: number) => void;
};

export class DataWriter {
  readonly #file: FileHandle;
  /** Position in the file of the next byte. */
  position: number;
  readonly fragments: FragmentEntry[] = [];
  readonly #pending: Pending[] = [];
  /** Buffers of blocks that are written, to be filled again. */
  readonly #spare: Buffer<ArrayBuffer>[] = [];
  #outgoing: Uint8Array[] = [];
  #outgoingBytes = 0;
  #written: number;
  #fragment = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  #fragmentFill = 0;
  #layout: FileLayout | null = null;
  #block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  #fill = 0;

  constructor(file: FileHandle, position: number) {
    this.#file = file;
    this.position = position;
    this.#written = position;
  }

  beginFile(): void {
    this.#layout = { start: 0, size: 0, blocks: [], holeBytes: 0, fragment: null };
    this.#fill = 0;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(bytes.length - at, BLOCK_BYTES - this.#fill);
      this.#block.set(bytes.subarray(at, at + count), this.#fill);
      at += count;
      await this.#grow(count);
    }
  }

  async zeros(length: number): Promise<void> {
    for (let left = length; left > 0;) {
      const count = Math.min(left, BLOCK_BYTES - this.#fill);
      this.#block.fill(0, this.#fill, this.#fill + count);
      left -= count;
      await this.#grow(count);
    }
  }

  async #grow(count: number): Promise<void> {
    this.#fill += count;
    this.#open().size += count;
    if (this.#fill === BLOCK_BYTES) await this.#endBlock();
  }

  #open(): FileLayout {
    if (this.#layout === null) throw new Error("no file is open");
    return this.#layout;
  }

  /** The layout is complete once flush() has returned. */
  async endFile(): Promise<FileLayout> {
    const layout = this.#open();
    if (this.#fill > 0) {
      if (layout.blocks.length === 0) await this.#addFragment(layout);
      else await this.#endBlock();
    }
    this.#layout = null;
    return layout;
  }

  async #endBlock(): Promise<void> {
    const layout = this.#open();
    const bytes = this.#block.subarray(0, this.#fill);
    const index = layout.blocks.push(0) - 1;
    this.#fill = 0;
    if (bytes.equals(ZEROS.subarray(0, bytes.length))) {
      layout.holeBytes += bytes.length;
      return;
    }
    this.#block = this.#blank();
    await this.#enqueue(bytes, (at, word) => {
      if (layout.start === 0) layout.start = at;
      layout.blocks[index] = word;
    });
  }

  async #addFragment(layout: FileLayout): Promise<void> {
    if (this.#fragmentFill + this.#fill > BLOCK_BYTES) await this.#endFragment();
    layout.fragment = { index: this.fragments.length, offset: this.#fragmentFill };
    this.#fragment.set(this.#block.subarray(0, this.#fill), this.#fragmentFill);
    this.#fragmentFill += this.#fill;
  }

  async #endFragment(): Promise<void> {
    if (this.#fragmentFill === 0) return;
    const entry: FragmentEntry = { start: 0, sizeWord: 0 };
    this.fragments.push(entry);
    const bytes = this.#fragment.subarray(0, this.#fragmentFill);
    this.#fragment = this.#blank();
    this.#fragmentFill = 0;
    await this.#enqueue(bytes, (at, word) => Object.assign(entry, { start: at, sizeWord: word }));
  }

  async #enqueue(bytes: Buffer<ArrayBuffer>, done: Pending["done"]): Promise<void> {
    const packed = Bun.zstdCompress(bytes, { level: ZSTD_LEVEL });
    packed.catch(() => undefined); // awaited in order below; until then it must not count as unhandled
    this.#pending.push({ bytes, packed, done });
    while (this.#pending.length >= IN_FLIGHT) await this.#writeOldest();
  }

  async #writeOldest(): Promise<void> {
    const oldest = this.#pending.shift();
    if (oldest === undefined) return;
    const packed = await oldest.packed;
    const small = packed.length < oldest.bytes.length;
    const stored = small ? packed : oldest.bytes;
    oldest.done(this.position, small ? stored.length : stored.length | UNCOMPRESSED);
    await this.append(small ? stored : Buffer.from(stored));
    this.#spare.push(oldest.bytes);
  }

  #blank(): Buffer<ArrayBuffer> {
    const spare = this.#spare.pop();
    // The last block of a file is a shorter view of a whole buffer.
    if (spare !== undefined) return Buffer.from(spare.buffer, spare.byteOffset, BLOCK_BYTES);
    return Buffer.allocUnsafeSlow(BLOCK_BYTES);
  }

  /** Raw bytes at the current position; the tables go this way after flush(). */
  async append(bytes: Uint8Array): Promise<void> {
    this.position += bytes.length;
    this.#outgoing.push(bytes);
    this.#outgoingBytes += bytes.length;
    if (this.#outgoingBytes >= WRITE_BYTES) await this.#send();
  }

  /** After a failure: no block is being compressed any more. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#pending.splice(0).map(({ packed }) => packed));
  }

  /** Everything put so far is in the file and every layout is complete. */
  async flush(): Promise<void> {
    await this.#endFragment();
    while (this.#pending.length > 0) await this.#writeOldest();
    await this.#send();
  }

  async #send(): Promise<void> {
    const bytes = Buffer.concat(this.#outgoing);
    this.#outgoing = [];
    this.#outgoingBytes = 0;
    for (let done = 0; done < bytes.length;) {
      const room = bytes.length - done;
      const { bytesWritten } = await this.#file.write(bytes, done, room, this.#written);
      done += bytesWritten;
      this.#written += bytesWritten;
    }
  }
}
