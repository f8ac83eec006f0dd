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
  closeFile,
  fileStatus,
  openFile,
  openIfThere,
  readAt,
  renameFile,
  truncateFile,
  writeSome,
} from "./libc.ts";
import { ERRNO, SystemError } from "./system-error.ts";

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

export type OutputHeader = Omit<OutputRecord, "data"> & { dataLength: number };

/** Null when the bytes cannot be a header of ours. */
export function parseHeader(view: DataView, at: number): OutputHeader | null {
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

export const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Walks whole records: the last sequence and where the whole records end. */
function scan(fd: number): { sequence: number; end: number } {
  const size = fileStatus(fd).bytes;
  const buffer = new Uint8Array(Math.min(CHUNK_BYTES, Math.max(size, OUTPUT_HEADER_BYTES)));
  const view = viewOf(buffer);
  let sequence = 0;
  let end = 0;
  let from = 0;
  let filled = 0;
  while (end + OUTPUT_HEADER_BYTES <= size) {
    if (end + OUTPUT_HEADER_BYTES > from + filled) {
      from = end;
      filled = readAt(fd, buffer, from);
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
    const fd = openFile(path, "append");
    try {
      const found = scan(fd);
      if (found.end < fileStatus(fd).bytes) truncateFile(fd, found.end);
      // An empty file beside a full .1: the writer ended just after a rotation.
      const last = found.sequence > 0 ? found.sequence : lastSequence(`${path}.1`);
      return new OutputLogWriter(path, halfBytes, fd, found.end, last);
    } catch (error) {
      closeFile(fd);
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
    if (this.#fd >= 0) closeFile(this.#fd);
    this.#fd = -1;
  }

  #appendOne(stream: number, incarnation: number, timeMs: number, data: Uint8Array): void {
    const bytes = OUTPUT_HEADER_BYTES + data.length;
    if (this.#size > 0 && this.#size + bytes > this.#halfBytes) this.#rotate();
    const record = new Uint8Array(bytes);
    const view = viewOf(record);
    view.setUint32(0, data.length, true);
    view.setUint32(4, stream, true);
    view.setBigUint64(8, BigInt(this.#sequence + 1), true);
    view.setBigUint64(16, BigInt(timeMs), true);
    view.setBigUint64(24, BigInt(incarnation), true);
    record.set(data, OUTPUT_HEADER_BYTES);
    if (this.#write(record) !== bytes) {
      // A short write of a regular file is a full disk.
      truncateFile(this.#fd, this.#size);
      throw new SystemError(`write ${this.#path}`, ERRNO.ENOSPC);
    }
    this.#size += bytes;
    this.#sequence += 1;
  }

  #write(record: Uint8Array): number {
    if (this.#fd < 0) throw new Error(`${this.#path} is closed`);
    return writeSome(this.#fd, record);
  }

  #rotate(): void {
    const fd = this.#fd;
    renameFile(this.#path, `${this.#path}.1`);
    this.#fd = openFile(this.#path, "append");
    this.#size = 0;
    closeFile(fd);
  }
}

function lastSequence(path: string): number {
  const fd = openIfThere(path);
  if (fd === null) return 0;
  try {
    return scan(fd).sequence;
  } finally {
    closeFile(fd);
  }
}
