/**
 * A Linux kernel file → guest memory. Two formats:
 *  - ELF vmlinux: each PT_LOAD goes to its p_paddr. Whole pages are mapped from the
 *    file copy-on-write, so kernel text is shared between machines through the page
 *    cache and nothing is copied; only the ragged ends are.
 *  - bzImage: the protected-mode part is copied to its preferred address and entered
 *    at +0x200 (boot protocol ≥ 2.12, XLF_KERNEL_64); it unpacks itself in the guest.
 * No header value is trusted: everything is checked against the file's size and the
 * guest's RAM before the first byte is written.
 * Sources: ELF-64 object file format; Documentation/arch/x86/boot.rst.
 */
import { beginReadAt, fileStatus, readAt } from "../../lib/libc.ts";
import { VMM_EXIT } from "../../proto/vmm.ts";
import { VmmError } from "./errors.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { LAYOUT, PAGE_BYTES } from "./memory-map.ts";

const ELF_MAGIC = 0x464c457f;
const ELF_HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const PROGRAM_HEADERS_MAX = 64;
const PT_LOAD = 1;
const BZ_MAGIC = 0x53726448; // "HdrS"
const BZ_HEADER_START = 0x1f1;
const BZ_HEADER_MAX_END = 0x290;
const BZ_HEAD_BYTES = 0x300;

export type Segment = { gpa: number; offset: number; fileBytes: number; memoryBytes: number };

/** Where a checked kernel goes. `end` is the first gpa after everything it needs. */
export type KernelPlan = {
  format: "elf" | "bzimage";
  segments: Segment[];
  entry: number;
  end: number;
  /** Bytes for the zero page from 0x1f1 on; empty for an ELF. */
  setupHeader: Uint8Array;
  /** The last gpa an initrd may occupy. */
  initrdMax: number;
  commandLineMax: number;
};

/** Parts of a file by position; tests pass an array. */
export type FileReader = { path: string; bytes: number; read(at: number, into: Uint8Array): void };

export type BackgroundReader = FileReader & {
  /** As read, but beside the caller; it is there when what is returned has returned. */
  begin(at: number, into: Uint8Array): () => void;
};

export function fileReader(path: string, fd: number): BackgroundReader {
  const whole = (got: number, into: Uint8Array): void => {
    if (got < into.length) throw invalid(path, "it is shorter than its own header says");
  };
  return {
    path,
    bytes: fileStatus(fd).bytes,
    read: (at, into) => whole(readAt(fd, into, at), into),
    begin: (at, into) => {
      const finish = beginReadAt(fd, into, at);
      return () => whole(finish(), into);
    },
  };
}

function invalid(path: string, what: string): VmmError {
  return new VmmError(
    "KERNEL_INVALID",
    VMM_EXIT.kernelInvalid,
    `${path} is not a usable kernel: ${what}`,
  );
}

/** Throws VmmError KERNEL_INVALID. */
export function planKernel(file: FileReader): KernelPlan {
  const head = new Uint8Array(Math.min(BZ_HEAD_BYTES, file.bytes));
  file.read(0, head);
  const view = new DataView(head.buffer);
  if (head.length >= ELF_HEADER_BYTES && view.getUint32(0, true) === ELF_MAGIC)
    return planElf(file, view);
  if (head.length >= BZ_HEAD_BYTES && view.getUint32(0x202, true) === BZ_MAGIC)
    return planBzImage(file, view);
  throw new VmmError(
    "KERNEL_INVALID",
    VMM_EXIT.kernelInvalid,
    `${file.path} is not a kernel: it has neither an ELF nor a bzImage header`,
  );
}

/** A u64 as a number; what is too large for one is too large for any check that follows. */
const u64 = (view: DataView, at: number): number => Number(view.getBigUint64(at, true));

function planElf(file: FileReader, head: DataView): KernelPlan {
  const fail = (what: string): VmmError => invalid(file.path, what);
  if (head.getUint8(4) !== 2 || head.getUint8(5) !== 1)
    throw fail("its ELF header is not 64-bit little-endian");
  if (head.getUint16(18, true) !== 62) throw fail("it is not for x86-64");
  if (head.getUint16(16, true) !== 2) throw fail("its ELF type is not EXEC");
  const entry = u64(head, 24);
  const tableAt = u64(head, 32);
  const count = head.getUint16(56, true);
  if (head.getUint16(54, true) !== PROGRAM_HEADER_BYTES || count === 0)
    throw fail("it has no program headers");
  if (count > PROGRAM_HEADERS_MAX) throw fail(`it has ${count} program headers`);
  const tableBytes = count * PROGRAM_HEADER_BYTES;
  if (tableAt + tableBytes > file.bytes) throw fail("its program headers are outside the file");
  const table = new Uint8Array(tableBytes);
  file.read(tableAt, table);
  const view = new DataView(table.buffer);
  const segments: Segment[] = [];
  for (let at = 0; at < tableBytes; at += PROGRAM_HEADER_BYTES) {
    if (view.getUint32(at, true) !== PT_LOAD) continue;
    const segment = {
      gpa: u64(view, at + 24),
      offset: u64(view, at + 8),
      fileBytes: u64(view, at + 32),
      memoryBytes: u64(view, at + 40),
    };
    if (segment.memoryBytes === 0) continue;
    checkSegment(file, segment, segments);
    segments.push(segment);
  }
  if (segments.length === 0) throw fail("it has nothing to load");
  const inside = segments.some((one) => entry >= one.gpa && entry < one.gpa + one.fileBytes);
  if (!inside) throw fail(`its entry point 0x${entry.toString(16)} is in none of its segments`);
  return {
    format: "elf",
    segments,
    entry,
    end: segments.reduce((end, one) => Math.max(end, one.gpa + one.memoryBytes), 0),
    setupHeader: new Uint8Array(0),
    initrdMax: 0x7fffffff,
    commandLineMax: 2_047,
  };
}

function checkSegment(file: FileReader, segment: Segment, before: readonly Segment[]): void {
  const { gpa, offset, fileBytes, memoryBytes } = segment;
  const where = `its segment at 0x${gpa.toString(16)}`;
  if (fileBytes > memoryBytes) throw invalid(file.path, `${where} is larger in the file`);
  if (offset + fileBytes > file.bytes) throw invalid(file.path, `${where} is outside the file`);
  if (gpa < LAYOUT.highMemory || gpa + memoryBytes > LAYOUT.lowLimit)
    throw invalid(file.path, `${where} is not between 1 MiB and 3 GiB`);
  for (const other of before)
    if (gpa < other.gpa + other.memoryBytes && other.gpa < gpa + memoryBytes)
      throw invalid(file.path, `${where} overlaps another one`);
}

function planBzImage(file: FileReader, head: DataView): KernelPlan {
  const fail = (what: string): VmmError => invalid(file.path, what);
  const version = head.getUint16(0x206, true);
  if (version < 0x20c) throw fail(`its boot protocol 0x${version.toString(16)} is older than 2.12`);
  if ((head.getUint16(0x236, true) & 1) === 0) throw fail("it has no 64-bit entry point");
  if ((head.getUint8(0x211) & 1) === 0) throw fail("it is a zImage");
  const headerEnd = 0x202 + head.getUint8(0x201);
  if (headerEnd < 0x268 || headerEnd > BZ_HEADER_MAX_END) throw fail("its setup header is cut off");
  // boot.rst: 0 means 4.
  const offset = ((head.getUint8(0x1f1) || 4) + 1) * 512;
  const fileBytes = file.bytes - offset;
  const gpa = u64(head, 0x258);
  const initBytes = head.getUint32(0x260, true);
  const alignment = head.getUint32(0x230, true);
  if (fileBytes <= 0x200) throw fail("it ends before its protected-mode part");
  if (alignment === 0 || gpa % Math.max(alignment, PAGE_BYTES) !== 0)
    throw fail(`its preferred address 0x${gpa.toString(16)} is not aligned`);
  const segment = { gpa, offset, fileBytes, memoryBytes: Math.max(fileBytes, initBytes) };
  checkSegment(file, segment, []);
  return {
    format: "bzimage",
    segments: [segment],
    entry: gpa + 0x200,
    end: gpa + segment.memoryBytes,
    setupHeader: new Uint8Array(head.buffer.slice(BZ_HEADER_START, headerEnd)),
    initrdMax: head.getUint32(0x22c, true),
    commandLineMax: head.getUint32(0x238, true) || 255,
  };
}

/**
 * Fills RAM that was never written before (memory past fileBytes is zero already). By a
 * copy: a kernel patches nearly every page of its text when it boots, and each page of a
 * mapped file would be copied then, by a fault of its own.
 */
export function loadSegments(
  plan: { segments: readonly Segment[] },
  file: Pick<FileReader, "read">,
  memory: GuestMemory,
): void {
  for (const { gpa, offset, fileBytes } of plan.segments) {
    let at = offset;
    for (const piece of fileBytes > 0 ? memory.pieces(gpa, fileBytes) : []) {
      file.read(at, piece);
      at += piece.length;
    }
  }
}
