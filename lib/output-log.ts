/**
 * A machine's output on disk: append-only binary records, one writer (the VMM)
 * and any number of readers in other processes (the agent).
 *
 *   record  32-byte little-endian header {u32 dataLen, u32 stream, u64 sequence,
 *           u64 timeMs, u64 incarnation}, then dataLen bytes
 *   files   <path> is being written, <path>.1 is the part before it
 *
 * The writer renames <path> to <path>.1 when it holds limit / 2, so both together
 * never exceed the limit; the oldest records are the ones lost. Sequences start
 * at 1, grow by one and go on through rotations and restarts of the writer.
 * A crash of the writer can leave half a record at the end: a reader stops before
 * it, the next writer cuts it off. A reader holds its file open, so a rotation
 * under it loses nothing; only a reader more than limit / 2 behind has gaps.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  writevSync,
} from "node:fs";

export const OUTPUT_STREAM = { stdout: 1, stderr: 2, system: 3 } as const;
export const OUTPUT_HEADER_BYTES = 32;
/** Longer data is stored as several records. */
export const OUTPUT_RECORD_MAX_BYTES = 1 << 20;
const LIMIT_MIN_BYTES = 256;
const CHUNK_BYTES = 64 << 10;

export type OutputRecord = {
  sequence: number;
  timeMs: number;
  /** A value of OUTPUT_STREAM. */
  stream: number;
  incarnation: number;
  data: Uint8Array;
};

type Header = Omit<OutputRecord, "data"> & { dataLength: number };

/** Null when the bytes cannot be a header of ours. */
function parseHeader(view: DataView, at: number): Header | null {
  const dataLength = view.getUint32(at, true);
  const stream = view.getUint32(at + 4, true);
  const sequence = Number(view.getBigUint64(at + 8, true));
  if (dataLength > OUTPUT_RECORD_MAX_BYTES || stream < 1 || stream > 3) return null;
  if (sequence < 1 || !Number.isSafeInteger(sequence)) return null;
  return {
    dataLength,
    stream,
    sequence,
    timeMs: Number(view.getBigUint64(at + 16, true)),
    incarnation: Number(view.getBigUint64(at + 24, true)),
  };
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function isMissing(error: unknown): boolean {
  return (
    error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ELOOP")
  );
}

function tryOpen(path: string): number | null {
  try {
    // The writer may be hostile: no link is followed, no pipe is waited for.
    const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (fstatSync(fd).isFile()) return fd;
    closeSync(fd);
    return null;
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** Walks whole records: the last sequence and where the whole records end. */
function scan(fd: number): { sequence: number; end: number } {
  const size = fstatSync(fd).size;
  const buffer = new Uint8Array(Math.min(CHUNK_BYTES, Math.max(size, OUTPUT_HEADER_BYTES)));
  const view = viewOf(buffer);
  let sequence = 0;
  let end = 0;
  let from = 0;
  let filled = 0;
  while (end + OUTPUT_HEADER_BYTES <= size) {
    if (end + OUTPUT_HEADER_BYTES > from + filled) {
      from = end;
      filled = readSync(fd, buffer, 0, buffer.length, from);
      if (filled < OUTPUT_HEADER_BYTES) break;
    }
    const header = parseHeader(view, end - from);
    if (header === null || header.sequence <= sequence) break;
    const next = end + OUTPUT_HEADER_BYTES + header.dataLength;
    if (next > size) break;
    sequence = header.sequence;
    end = next;
  }
  return { sequence, end };
}

export class OutputLogWriter {
  readonly #path: string;
  readonly #halfBytes: number;
  #fd: number;
  #size: number;
  #sequence: number;

  private constructor(path: string, halfBytes: number, fd: number, size: number, last: number) {
    this.#path = path;
    this.#halfBytes = halfBytes;
    this.#fd = fd;
    this.#size = size;
    this.#sequence = last;
  }

  /** Continues after the last whole record of an earlier writer. limitBytes ≥ 256. */
  static open(path: string, limitBytes: number): OutputLogWriter {
    const halfBytes = Math.floor(Math.max(limitBytes, LIMIT_MIN_BYTES) / 2);
    const fd = openSync(path, "a+", 0o600);
    try {
      const found = scan(fd);
      if (found.end < fstatSync(fd).size) ftruncateSync(fd, found.end);
      // An empty file beside a full .1: the writer ended just after a rotation.
      const last = found.sequence > 0 ? found.sequence : lastSequence(`${path}.1`);
      return new OutputLogWriter(path, halfBytes, fd, found.end, last);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** The last sequence written; 0 before the first. */
  get sequence(): number {
    return this.#sequence;
  }

  /**
   * Appends and returns the sequence of the (last) record. Throws the system's
   * error, ENOSPC for one, with nothing half-written left behind.
   */
  append(stream: number, incarnation: number, timeMs: number, data: Uint8Array): number {
    const pieceBytes = Math.min(OUTPUT_RECORD_MAX_BYTES, this.#halfBytes - OUTPUT_HEADER_BYTES);
    let at = 0;
    do {
      const piece = data.subarray(at, at + pieceBytes);
      this.#appendOne(stream, incarnation, timeMs, piece);
      at += piece.length;
    } while (at < data.length);
    return this.#sequence;
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #appendOne(stream: number, incarnation: number, timeMs: number, data: Uint8Array): void {
    const bytes = OUTPUT_HEADER_BYTES + data.length;
    if (this.#size > 0 && this.#size + bytes > this.#halfBytes) this.#rotate();
    const header = new Uint8Array(OUTPUT_HEADER_BYTES);
    const view = viewOf(header);
    view.setUint32(0, data.length, true);
    view.setUint32(4, stream, true);
    view.setBigUint64(8, BigInt(this.#sequence + 1), true);
    view.setBigUint64(16, BigInt(timeMs), true);
    view.setBigUint64(24, BigInt(incarnation), true);
    const written = this.#write(header, data);
    if (written !== bytes) {
      // A short write of a regular file is a full disk.
      ftruncateSync(this.#fd, this.#size);
      throw Object.assign(new Error(`ENOSPC: ${this.#path} is full`), { code: "ENOSPC" });
    }
    this.#size += bytes;
    this.#sequence += 1;
  }

  #write(header: Uint8Array, data: Uint8Array): number {
    if (this.#fd < 0) throw new Error(`${this.#path} is closed`);
    return writevSync(this.#fd, data.length > 0 ? [header, data] : [header]);
  }

  #rotate(): void {
    const fd = this.#fd;
    renameSync(this.#path, `${this.#path}.1`);
    this.#fd = openSync(this.#path, "a+", 0o600);
    this.#size = 0;
    closeSync(fd);
  }
}

function lastSequence(path: string): number {
  const fd = tryOpen(path);
  if (fd === null) return 0;
  try {
    return scan(fd).sequence;
  } finally {
    closeSync(fd);
  }
}

export class OutputLogReader {
  readonly #path: string;
  #after: number;
  #fd = -1;
  #inode = -1;
  #position = 0;
  readonly #header = new Uint8Array(OUTPUT_HEADER_BYTES);

  constructor(path: string, afterSequence: number) {
    this.#path = path;
    this.#after = afterSequence;
  }

  /** The sequence of the last record returned, or what the constructor was given. */
  get sequence(): number {
    return this.#after;
  }

  /**
   * The next whole records, in order, with at most maxBytes of data (but at least
   * one record when there is one). Empty = nothing new now; call again later. A
   * file that does not exist yet is empty.
   */
  read(maxBytes: number): OutputRecord[] {
    const records: OutputRecord[] = [];
    let bytes = 0;
    while (this.#fd >= 0 || this.#openFirst()) {
      const record = this.#next(records.length === 0 ? OUTPUT_RECORD_MAX_BYTES : maxBytes - bytes);
      if (record === "full") break;
      if (record !== "end") {
        records.push(record);
        bytes += record.data.length;
        if (bytes >= maxBytes) break;
      } else if (!this.#advance()) break;
    }
    return records;
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
    this.#inode = -1;
  }

  /** The next record after #after in the held file that has at most `room` bytes. */
  #next(room: number): OutputRecord | "end" | "full" {
    const size = fstatSync(this.#fd).size;
    for (;;) {
      if (this.#position + OUTPUT_HEADER_BYTES > size) return "end";
      if (readSync(this.#fd, this.#header, 0, OUTPUT_HEADER_BYTES, this.#position) < 32)
        return "end";
      const header = parseHeader(viewOf(this.#header), 0);
      // Not ours, or not whole yet: nothing past it can be trusted.
      if (header === null) return "end";
      const dataAt = this.#position + OUTPUT_HEADER_BYTES;
      if (dataAt + header.dataLength > size) return "end";
      if (header.sequence > this.#after) return this.#take(header, dataAt, room);
      this.#position = dataAt + header.dataLength;
    }
  }

  #take(header: Header, dataAt: number, room: number): OutputRecord | "end" | "full" {
    const { dataLength, ...rest } = header;
    if (dataLength > room) return "full";
    const data = new Uint8Array(dataLength);
    if (dataLength > 0 && readSync(this.#fd, data, 0, dataLength, dataAt) < dataLength)
      return "end";
    this.#position = dataAt + dataLength;
    this.#after = header.sequence;
    return { ...rest, data };
  }

  /** Opens <path>.1 when it can hold records that are still wanted, else <path>. */
  #openFirst(): boolean {
    const older = tryOpen(`${this.#path}.1`);
    if (older !== null) return this.#hold(older);
    const current = tryOpen(this.#path);
    if (current === null) return false;
    if (inodeOf(`${this.#path}.1`) === 0) return this.#hold(current);
    // The first rotation happened between the two: the next call sees both files.
    closeSync(current);
    return this.#openFirst();
  }

  #hold(fd: number): boolean {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = fd;
    this.#inode = fstatSync(fd).ino;
    this.#position = 0;
    return true;
  }

  /**
   * At the end of the held file: true when there is more to read now, in it or in
   * the file after it. The held inode cannot be reused while it is open, so inode
   * numbers tell the files apart.
   */
  #advance(): boolean {
    for (let attempt = 0; attempt < 8; attempt += 1) {
      if (inodeOf(this.#path) === this.#inode) return false;
      // Rotated away. What was appended between our last look and the rename:
      const whole = this.#next(-1);
      if (whole !== "end") return true;
      const olderInode = inodeOf(`${this.#path}.1`);
      const name = olderInode === this.#inode || olderInode === 0 ? this.#path : `${this.#path}.1`;
      const fd = tryOpen(name);
      // Between the rename and the new file of a rotation, or removed.
      if (fd === null) return false;
      if (name === this.#path && inodeOf(`${this.#path}.1`) !== olderInode) {
        // Rotated again while we looked: <path> is not the next file any more.
        closeSync(fd);
        continue;
      }
      return this.#hold(fd);
    }
    return false;
  }
}

/** 0 when there is no such file. */
function inodeOf(path: string): number {
  try {
    return statSync(path).ino;
  } catch (error) {
    if (isMissing(error)) return 0;
    throw error;
  }
}
