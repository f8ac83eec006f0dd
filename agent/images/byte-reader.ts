/** Pulls exact lengths out of a stream of chunks and knows its position. */
export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  readonly #onChunk: (chunk: Uint8Array) => void;
  #chunk: Uint8Array = new Uint8Array(0);
  #at = 0;
  /** Bytes taken or skipped since the start. */
  position = 0;
  /** `onChunk` sees every chunk once, in order, also those that are skipped. */
  constructor(source: AsyncIterable<Uint8Array>, onChunk: (chunk: Uint8Array) => void = () => {}) {
    this.#source = source[Symbol.asyncIterator]();
    this.#onChunk = onChunk;
  }

  async #more(): Promise<boolean> {
    while (this.#at === this.#chunk.length) {
      const next = await this.#source.next();
      if (next.done === true) return false;
      this.#chunk = next.value;
      this.#at = 0;
      this.#onChunk(next.value);
    }
    return true;
  }

  /** The next 1 to `max` bytes as they lie, valid until the next call; null at the end. */
  async some(max: number): Promise<Uint8Array | null> {
    if (this.#at === this.#chunk.length && !(await this.#more())) return null;
    const piece = this.#chunk.subarray(this.#at, this.#at + max);
    this.#at += piece.length;
    this.position += piece.length;
    return piece;
  }

  /** Exactly `length` bytes, or fewer when the stream ends. */
  async take(length: number): Promise<Uint8Array> {
    const ready = this.#chunk.subarray(this.#at, this.#at + length);
    if (ready.length === length) {
      this.#at += length;
      this.position += length;
      return ready;
    }
    const out = new Uint8Array(length);
    let done = 0;
    while (done < length) {
      const piece = await this.some(length - done);
      if (piece === null) return out.subarray(0, done);
      out.set(piece, done);
      done += piece.length;
    }
    return out;
  }

  /** False when the stream ends before `length` bytes are skipped. */
  async skip(length: number): Promise<boolean> {
    let left = length;
    while (left > 0) {
      const piece = await this.some(left);
      if (piece === null) return false;
      left -= piece.length;
    }
    return true;
  }

  /** Reads to the end, so that `onChunk` has seen everything. */
  async drain(): Promise<void> {
    while ((await this.some(Number.MAX_SAFE_INTEGER)) !== null);
  }

  /** Ends the source early. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
