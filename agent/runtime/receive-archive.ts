/**
 * An archive that comes over the link, on its way into the image store: a temporary file beside
 * the blobs, then `Images.load`. Once all of it is here the load belongs to the agent: whoever
 * sent it may go. What a crash leaves behind the store removes, as its own temporary files.
 */
import { mkdir, open, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { temporaryName } from "../images/durable.ts";
import type { Images, LoadedImage } from "../images/types.ts";

/** How often the disk is looked at, and what is always left on it. */
const LOOK_BYTES = 32 << 20;
const FLOOR_BYTES = 256 << 20;

/**
 * `chunks` end when all was sent and throw when the sender is gone. `onWritten` hears of each
 * chunk that is on the disk. Throws DISK_FULL, IMAGE_TOO_LARGE, and what Images.load throws.
 */
export async function receiveArchive(
  images: Images,
  dir: string,
  tag: string | null,
  chunks: AsyncIterable<Uint8Array>,
  onWritten: (bytes: number) => void,
): Promise<LoadedImage> {
  const folder = join(dir, "blobs", "sha256");
  await mkdir(folder, { recursive: true });
  const path = temporaryName(join(folder, "upload"));
  try {
    await write(path, folder, chunks, onWritten);
    return await images.load(path, tag);
  } finally {
    await rm(path, { force: true });
  }
}

async function write(
  path: string,
  folder: string,
  chunks: AsyncIterable<Uint8Array>,
  onWritten: (bytes: number) => void,
): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    let total = 0;
    let lookAt = 0;
    for await (const chunk of chunks) {
      total += chunk.length;
      if (total > LIMITS.imageArchiveBytes)
        throw new LvError(
          "IMAGE_TOO_LARGE",
          `The archive has more than ${LIMITS.imageArchiveBytes} bytes`,
        );
      if (total >= lookAt) {
        await checkRoom(folder);
        lookAt = total + LOOK_BYTES;
      }
      await file.writeFile(chunk);
      onWritten(chunk.length);
    }
  } finally {
    await file.close();
  }
}

async function checkRoom(folder: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < FLOOR_BYTES + LOOK_BYTES)
    throw new LvError("DISK_FULL", "The host has no room left for the archive");
}
