/** A layer blob as its uncompressed bytes: gzip (several members), zstd (several frames) or none. */
import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { createGunzip, createZstdDecompress } from "node:zlib";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";

const CHUNK_BYTES = 256 << 10;
/** Below this the compression ratio is nobody's attack. */
const RATIO_FLOOR_BYTES = 256 * 2 ** 20;

export type Compression = "gzip" | "zstd" | "none";

/** By magic, never by media type: registries hold blobs whose type is wrong. */
export function detectCompression(head: Uint8Array): Compression {
  const [a, b, c, d] = head;
  if (a === 0x1f && b === 0x8b) return "gzip";
  if (a === 0x28 && b === 0xb5 && c === 0x2f && d === 0xfd) return "zstd";
  // A zstd skippable frame may come first (RFC 8878 §3.1.2).
  if (a !== undefined && a >> 4 === 5 && b === 0x2a && c === 0x4d && d === 0x18) return "zstd";
  return "none";
}

/**
 * Chunks in order; `onStored` hears how many bytes of the blob were read for them. Memory stays at a few chunks. Zeros after a gzip member are padding, other
 * garbage is an error, as in Go's reader. A zstd frame that is cut off may end without an error
 * here: the caller compares the diff_id.
 * Throws IMAGE_CORRUPT for bytes that do not decompress, IMAGE_TOO_LARGE for a bomb.
 */
export async function* readLayer(
  path: string,
  digest: string,
  onStored: (bytes: number) => void = () => {},
): AsyncGenerator<Uint8Array> {
  const compressedBytes = (await stat(path)).size;
  const compression = detectCompression(await readHead(path));
  const file = createReadStream(path, { highWaterMark: CHUNK_BYTES });
  const decompressor =
    compression === "gzip"
      ? createGunzip({ chunkSize: CHUNK_BYTES })
      : compression === "zstd"
        ? createZstdDecompress({ chunkSize: CHUNK_BYTES })
        : null;
  if (decompressor !== null) file.on("error", (error) => decompressor.destroy(error));
  const stream = decompressor === null ? file : file.pipe(decompressor);
  let total = 0;
  try {
    for await (const chunk of stream) {
      const bytes = chunk as Buffer;
      total += bytes.length;
      checkBomb(total, compressedBytes, digest);
      onStored(file.bytesRead);
      yield bytes;
    }
  } catch (error) {
    if (error instanceof LvError || !isDataError(error)) throw error;
    throw new LvError(
      "IMAGE_CORRUPT",
      `Layer ${digest} does not decompress (${compression}): ${error.message}`,
      { cause: error },
    );
  } finally {
    file.destroy();
    decompressor?.destroy();
  }
}

function checkBomb(total: number, compressedBytes: number, digest: string): void {
  const ratioBroken =
    total > RATIO_FLOOR_BYTES && total > compressedBytes * LIMITS.imageCompressionRatio;
  if (!ratioBroken && total <= LIMITS.imageUnpackedBytes) return;
  throw new LvError(
    "IMAGE_TOO_LARGE",
    ratioBroken
      ? `Layer ${digest} unpacks to more than ${LIMITS.imageCompressionRatio} times its size`
      : `Layer ${digest} unpacks to more than ${LIMITS.imageUnpackedBytes} bytes`,
  );
}

async function readHead(path: string): Promise<Uint8Array> {
  const file = await open(path, "r");
  try {
    const { bytesRead, buffer } = await file.read(new Uint8Array(4), 0, 4, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

function isDataError(error: unknown): error is Error {
  return error instanceof Error && "code" in error && /^(Z_|ZSTD_|ERR_)/.test(String(error.code));
}
