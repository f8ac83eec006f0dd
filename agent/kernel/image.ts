/**
 * Kernel images: what a file is, and the vmlinux inside a bzImage. Sources: the
 * kernel's Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header":
 * setup_sects 0x1f1, boot_flag 0x1fe, HdrS 0x202, version 0x206, payload_offset
 * 0x248, payload_length 0x24c) and the ELF specification.
 */
import { gunzipSync } from "node:zlib";
import { LvError } from "../../proto/errors.ts";
import { decodeLz4Legacy, Lz4Error } from "./lz4.ts";

export type KernelKind = "elf" | "bzimage";

const HDRS = 0x53726448;
const EM_X86_64 = 62;
const UNPACKED_MAX_BYTES = 1 << 30;

/** Names what the bytes are, or throws KERNEL_INVALID "<path> is not a kernel: …". */
export function kernelKind(image: Uint8Array, path: string): KernelKind {
  const invalid = (why: string): LvError =>
    new LvError("KERNEL_INVALID", `${path} is not a kernel: ${why}`);
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (image.length >= 64 && view.getUint32(0, false) === 0x7f454c46) {
    if (image[4] !== 2 || image[5] !== 1 || view.getUint16(18, true) !== EM_X86_64)
      throw invalid("its ELF header is not for 64-bit x86");
    checkSegments(view, invalid);
    return "elf";
  }
  if (
    image.length >= 0x268 &&
    view.getUint16(0x1fe, true) === 0xaa55 &&
    view.getUint32(0x202, true) === HDRS
  ) {
    const version = view.getUint16(0x206, true);
    if (version < 0x20c)
      throw invalid(`its boot protocol ${version >> 8}.${version & 255} is older than 2.12`);
    return "bzimage";
  }
  throw invalid("it has neither an ELF nor a bzImage header");
}

function checkSegments(view: DataView, invalid: (why: string) => LvError): void {
  const type = view.getUint16(16, true);
  if (type !== 2 && type !== 3) throw invalid("its ELF header names no executable");
  const table = Number(view.getBigUint64(32, true));
  const size = view.getUint16(54, true);
  const count = view.getUint16(56, true);
  if (size !== 56 || count === 0 || table + count * size > view.byteLength)
    throw invalid("its ELF program headers lie outside the file");
  let loads = 0;
  for (let at = table; at < table + count * size; at += size) {
    if (view.getUint32(at, true) !== 1) continue;
    loads += 1;
    const end = view.getBigUint64(at + 8, true) + view.getBigUint64(at + 32, true);
    if (end > BigInt(view.byteLength))
      throw invalid("an ELF segment runs past the end of the file");
  }
  if (loads === 0) throw invalid("its ELF file has nothing to load");
}

/**
 * The ELF inside a bzImage. The payload may be LZ4 (legacy frame), gzip, zstd or
 * xz; its last four bytes are the unpacked size. Throws KERNEL_INVALID, and
 * TOOL_MISSING when xz is needed and not installed.
 */
export async function extractVmlinux(image: Uint8Array, path: string): Promise<Uint8Array> {
  const invalid = (why: string, cause?: unknown): LvError =>
    new LvError("KERNEL_INVALID", `${path} is not a kernel: ${why}`, { cause });
  if (kernelKind(image, path) === "elf") return image;
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const setupSectors = image[0x1f1] || 4; // 0 means 4, boot.rst
  const start = (setupSectors + 1) * 512 + view.getUint32(0x248, true);
  const length = view.getUint32(0x24c, true);
  if (length < 8 || start + length > image.length)
    throw invalid("its payload lies outside the file");
  const bytes = view.getUint32(start + length - 4, true);
  if (bytes > UNPACKED_MAX_BYTES) throw invalid(`its payload claims to unpack to ${bytes} bytes`);
  const payload = image.subarray(start, start + length);
  let vmlinux: Uint8Array;
  try {
    vmlinux = await unpack(payload, bytes);
  } catch (error) {
    if (error instanceof LvError) throw error;
    const why = error instanceof Lz4Error ? error.message : "its payload cannot be unpacked";
    throw invalid(why, error);
  }
  if (kernelKind(vmlinux, path) !== "elf") throw invalid("its payload is not an ELF file");
  return vmlinux;
}

async function unpack(payload: Uint8Array, bytes: number): Promise<Uint8Array> {
  const magic = Buffer.from(payload.subarray(0, 6)).toString("hex");
  if (magic.startsWith("02214c18")) return decodeLz4Legacy(payload, bytes);
  const body = payload.subarray(0, payload.length - 4);
  if (magic.startsWith("1f8b08")) return gunzipSync(payload, { maxOutputLength: bytes });
  if (magic.startsWith("28b52ffd")) return Bun.zstdDecompressSync(body);
  if (magic === "fd377a585a00") return await runXz(body);
  throw new LvError(
    "KERNEL_INVALID",
    `The kernel's payload is packed in an unknown way (${magic})`,
  );
}

/** Unpacks by the xz command; TOOL_MISSING when there is none. */
export async function runXz(packed: Uint8Array): Promise<Uint8Array> {
  const xz = Bun.which("xz");
  if (xz === null)
    throw new LvError(
      "TOOL_MISSING",
      "Cannot unpack xz data: install it with apt-get install xz-utils",
    );
  const child = Bun.spawn([xz, "-dc", "--single-stream"], {
    stdin: packed,
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, complaint, code] = await Promise.all([
    new Response(child.stdout).bytes(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new LvError("KERNEL_INVALID", `xz: ${complaint.trim()}`);
  return output;
}
