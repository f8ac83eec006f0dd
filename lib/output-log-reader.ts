/** The other end of output-log.ts, for any process that may open the files. */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from "node:fs";
import {
  OUTPUT_HEADER_BYTES,
  OUTPUT_RECORD_MAX_BYTES,
  type OutputHeader,
  type OutputRecord,
  parseHeader,
  viewOf,
} from "./output-log.ts";

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

  #take(header: OutputHeader, dataAt: number, room: number): OutputRecord | "end" | "full" {
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
