/**
 * Files by the C library's own calls, for the VMM process: loading node:fs costs each
 * start of a machine 4 ms of 30 and each machine the memory of it. Whoever is not in
 * that process uses node:fs.
 *
 * Descriptors are closed on exec. What a call says it throws is a SystemError; a call
 * that a signal interrupts is repeated. Sources: the manual pages of section 2.
 */
import { dlopen, ptr, read } from "bun:ffi";
import { ERRNO, SystemError } from "./system-error.ts";

/** fcntl.h on x86-64. */
const AT_EMPTY_PATH = 0x1000;
const O_RDONLY = 0;
const O_WRONLY = 1;
const O_RDWR = 2;
const O_CREAT = 0o100;
const O_TRUNC = 0o1000;
const O_APPEND = 0o2000;
const O_NONBLOCK = 0o4000;
const O_NOFOLLOW = 0o400000;
const O_CLOEXEC = 0o2000000;
const FLAGS = {
  read: O_RDONLY,
  update: O_RDWR,
  /** No link is followed, no pipe is waited for. */
  warily: O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
  /** Made when it is missing, emptied when it is there. */
  replace: O_WRONLY | O_CREAT | O_TRUNC,
  /** Made when it is missing, read and appended to. */
  append: O_RDWR | O_CREAT | O_APPEND,
} as const;
const OWNER_ONLY = 0o600;

/** struct statx, linux/stat.h. */
const STATX = { bytes: 256, mode: 28, size: 40, rdevMajor: 128, rdevMinor: 132 } as const;
const STATX_BASIC_STATS = 0x7ff;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFBLK = 0o060000;

/** struct aiocb of glibc, aio.h. */
const AIOCB = { bytes: 168, fd: 0, buffer: 16, length: 24, notify: 44, offset: 128 } as const;
const SIGEV_NONE = 1;

const CHUNK_BYTES = 4_096;

const SYMBOLS = {
  open: { args: ["ptr", "i32", "u32"], returns: "i32" },
  close: { args: ["i32"], returns: "i32" },
  access: { args: ["ptr", "i32"], returns: "i32" },
  statx: { args: ["i32", "ptr", "i32", "u32", "ptr"], returns: "i32" },
  pread: { args: ["i32", "ptr", "u64", "i64"], returns: "i64" },
  read: { args: ["i32", "ptr", "u64"], returns: "i64" },
  write: { args: ["i32", "ptr", "u64"], returns: "i64" },
  ftruncate: { args: ["i32", "i64"], returns: "i32" },
  rename: { args: ["ptr", "ptr"], returns: "i32" },
  unlink: { args: ["ptr"], returns: "i32" },
  aio_read: { args: ["ptr"], returns: "i32" },
  aio_suspend: { args: ["ptr", "i32", "ptr"], returns: "i32" },
  aio_error: { args: ["ptr"], returns: "i32" },
  aio_return: { args: ["ptr"], returns: "i64" },
  __errno_location: { args: [], returns: "ptr" },
} as const;

const libc = dlopen("libc.so.6", SYMBOLS).symbols;

/** This thread's: each has its own copy of this module. */
const errnoAt = libc.__errno_location();

/** The result, or the negative errno. */
function tried(call: () => number | bigint): number {
  for (;;) {
    const result = Number(call());
    if (result >= 0) return result;
    const errno = errnoAt === null ? ERRNO.EIO : read.i32(errnoAt, 0);
    if (errno !== ERRNO.EINTR) return -errno;
  }
}

function check(call: string, result: number): number {
  if (result < 0) throw new SystemError(call, -result);
  return result;
}

/** As C wants it. Throws for what no file can be called. */
function cString(path: string): Uint8Array {
  const bytes = new TextEncoder().encode(`${path}\0`);
  if (bytes.indexOf(0) !== bytes.length - 1) throw new SystemError(`open ${path}`, ERRNO.EINVAL);
  return bytes;
}

function tryOpen(path: string, how: keyof typeof FLAGS): number {
  const name = cString(path);
  return tried(() => libc.open(name, FLAGS[how] | O_CLOEXEC, OWNER_ONLY));
}

/** Files that are made are their owner's alone (mode 0600). */
export const openFile = (path: string, how: keyof typeof FLAGS): number =>
  check(`open ${path}`, tryOpen(path, how));

/** For reading what somebody hostile may have put there; null when it is no regular file. */
export function openIfThere(path: string): number | null {
  const fd = tryOpen(path, "warily");
  if (fd === -ERRNO.ENOENT || fd === -ERRNO.ELOOP) return null;
  check(`open ${path}`, fd);
  if (fileStatus(fd).kind === "file") return fd;
  closeFile(fd);
  return null;
}

/** Never throws: there is nothing left to do about it. */
export function closeFile(fd: number): void {
  libc.close(fd);
}

export function fileExists(path: string): boolean {
  const name = cString(path);
  return tried(() => libc.access(name, 0)) === 0;
}

export type FileStatus = {
  kind: "file" | "block" | "other";
  bytes: number;
  /** Of the device that a special file stands for. */
  major: number;
  minor: number;
};

export function fileStatus(fd: number): FileStatus {
  const view = new DataView(new ArrayBuffer(STATX.bytes));
  const out = new Uint8Array(view.buffer);
  const [none, mask] = [cString(""), STATX_BASIC_STATS];
  check(
    "statx",
    tried(() => libc.statx(fd, none, AT_EMPTY_PATH, mask, out)),
  );
  const format = view.getUint16(STATX.mode, true) & S_IFMT;
  return {
    kind: format === S_IFREG ? "file" : format === S_IFBLK ? "block" : "other",
    bytes: Number(view.getBigUint64(STATX.size, true)),
    major: view.getUint32(STATX.rdevMajor, true),
    minor: view.getUint32(STATX.rdevMinor, true),
  };
}

/** How much there was at offset `at`, which is less at the end of the file only. */
export function readAt(fd: number, into: Uint8Array, at: number): number {
  for (let done = 0; done < into.length;) {
    const rest = done === 0 ? into : into.subarray(done);
    const got = check(
      "pread",
      tried(() => libc.pread(fd, rest, rest.length, at + done)),
    );
    if (got === 0) return done;
    done += got;
  }
  return into.length;
}

/** What waits for each reading that a thread is at; they hold what it writes to. */
const inFlight = new Set<() => void>();

/** struct aiocb of one reading. */
function readingOf(fd: number, into: Uint8Array, at: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(AIOCB.bytes));
  view.setInt32(AIOCB.fd, fd, true);
  view.setBigUint64(AIOCB.buffer, BigInt(ptr(into)), true);
  view.setBigUint64(AIOCB.length, BigInt(into.length), true);
  view.setInt32(AIOCB.notify, SIGEV_NONE, true);
  view.setBigInt64(AIOCB.offset, BigInt(at), true);
  return new Uint8Array(view.buffer);
}

/**
 * Begins to read beside the caller; what is returned waits for the end and is readAt
 * then. `into` is a thread's until that, or settleReadings. Source: aio(7).
 */
export function beginReadAt(fd: number, into: Uint8Array, at: number): () => number {
  let done = 0;
  const finish = (): number => done + readAt(fd, into.subarray(done), at + done);
  if (into.length === 0) return finish;
  const block = readingOf(fd, into, at);
  // Where no thread is to be had, it is read when it is asked for.
  if (tried(() => libc.aio_read(block)) < 0) return finish;
  const wait = (): void => {
    const list = new BigUint64Array([BigInt(ptr(block))]);
    while (libc.aio_error(block) === ERRNO.EINPROGRESS) libc.aio_suspend(list, 1, null);
    // What failed is read again, and says why.
    done = Math.max(0, Number(libc.aio_return(block)));
    inFlight.delete(wait);
  };
  inFlight.add(wait);
  return () => {
    if (inFlight.has(wait)) wait();
    return finish();
  };
}

/** Nothing that was begun is written to any more. Never throws. */
export function settleReadings(): void {
  for (const wait of inFlight) wait();
}

/** Of any file, those of /proc, too, which have no size. */
export function readText(path: string): string {
  const fd = openFile(path, "read");
  try {
    let bytes = new Uint8Array(CHUNK_BYTES);
    for (let filled = 0; ;) {
      const rest = bytes.subarray(filled);
      const got = check(
        `read ${path}`,
        tried(() => libc.read(fd, rest, rest.length)),
      );
      if (got === 0) return new TextDecoder().decode(bytes.subarray(0, filled));
      filled += got;
      if (filled < bytes.length) continue;
      const larger = new Uint8Array(2 * bytes.length);
      larger.set(bytes);
      bytes = larger;
    }
  } finally {
    closeFile(fd);
  }
}

/** How much was written: of a regular file it is less when the disk is full. */
export const writeSome = (fd: number, bytes: Uint8Array): number =>
  check(
    "write",
    tried(() => libc.write(fd, bytes, bytes.length)),
  );

/** Replaces the file at once: whoever opens it has the old one or the whole new one. */
export function replaceText(path: string, text: string): void {
  const temporary = `${path}.new`;
  const bytes = new TextEncoder().encode(text);
  const fd = openFile(temporary, "replace");
  try {
    if (writeSome(fd, bytes) < bytes.length) throw new SystemError(`write ${path}`, ERRNO.ENOSPC);
  } finally {
    closeFile(fd);
  }
  renameFile(temporary, path);
}

export function truncateFile(fd: number, bytes: number): void {
  check(
    "ftruncate",
    tried(() => libc.ftruncate(fd, bytes)),
  );
}

export function renameFile(from: string, to: string): void {
  const [old, now] = [cString(from), cString(to)];
  check(
    `rename ${from}`,
    tried(() => libc.rename(old, now)),
  );
}

/** One that is not there is as good as removed. */
export function removeFile(path: string): void {
  const name = cString(path);
  const result = tried(() => libc.unlink(name));
  if (result !== -ERRNO.ENOENT) check(`unlink ${path}`, result);
}
