/**
 * The files of an image on disk: an OCI layout directory, or a tar of one, or of `docker save`. A
 * compressed tar is unpacked beside the blobs first, since its files are read in another order
 * than they lie in.
 */
import { createReadStream } from "node:fs";
import { mkdir, open, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { ByteReader } from "./byte-reader.ts";
import { temporaryName } from "./durable.ts";
import { detectCompression, readLayer } from "./layer.ts";
import { walkTar } from "./tar.ts";

const ARCHIVE_ENTRIES = 10_000;
const LINKS = 8;
const CHUNK_BYTES = 256 << 10;

export interface ImageFiles extends AsyncDisposable {
  has(name: string): Promise<boolean>;
  /** Throws IMAGE_CORRUPT when it is not there. */
  stream(name: string): Promise<AsyncIterable<Uint8Array>>;
}

/** A small file whole. Throws IMAGE_CORRUPT or IMAGE_TOO_LARGE. */
export async function readSmall(
  files: ImageFiles,
  name: string,
  limitBytes: number,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of await files.stream(name)) {
    size += chunk.length;
    if (size > limitBytes)
      throw new LvError("IMAGE_TOO_LARGE", `"${name}" is larger than ${limitBytes} bytes`);
    parts.push(chunk);
  }
  return Buffer.concat(parts);
}

/**
 * `scratchDir` is where a compressed archive is unpacked; disposing removes it again. Throws
 * BAD_REQUEST for what cannot be read at all, IMAGE_CORRUPT, IMAGE_TOO_LARGE.
 */
export async function openImageFiles(path: string, scratchDir: string): Promise<ImageFiles> {
  const stats = await stat(path).catch((cause: unknown) => {
    throw new LvError("BAD_REQUEST", `Cannot read "${path}"`, { cause });
  });
  if (stats.isDirectory()) return layoutFiles(path);
  if (!(await isCompressed(path))) return await archiveFiles(path, () => Promise.resolve());
  await mkdir(scratchDir, { recursive: true });
  const plain = temporaryName(join(scratchDir, "sha256", "unpacked"));
  const remove = (): Promise<void> => rm(plain, { force: true });
  try {
    await unpack(path, plain);
    return await archiveFiles(plain, remove);
  } catch (error) {
    await remove();
    throw error;
  }
}

async function isCompressed(path: string): Promise<boolean> {
  const file = await open(path, "r");
  try {
    const { buffer, bytesRead } = await file.read(new Uint8Array(4), 0, 4, 0);
    return detectCompression(buffer.subarray(0, bytesRead)) !== "none";
  } finally {
    await file.close();
  }
}

async function unpack(path: string, target: string): Promise<void> {
  await mkdir(join(target, ".."), { recursive: true });
  const file = await open(target, "wx", 0o600);
  try {
    for await (const chunk of readLayer(path, "of the archive")) await file.writeFile(chunk);
  } catch (error) {
    if (!(error instanceof LvError)) throw error;
    throw new LvError(error.reason, `The archive cannot be unpacked: ${error.message}`, {
      cause: error,
    });
  } finally {
    await file.close();
  }
}

function missing(name: string): LvError {
  return new LvError("IMAGE_CORRUPT", `The image has no file "${name}"`);
}

function layoutFiles(dir: string): ImageFiles {
  const isFile = async (name: string): Promise<boolean> =>
    await stat(join(dir, name)).then(
      (stats) => stats.isFile(),
      () => false,
    );
  return {
    [Symbol.asyncDispose]: () => Promise.resolve(),
    has: isFile,
    stream: async (name) => {
      if (name.split("/").includes("..") || !(await isFile(name))) throw missing(name);
      return createReadStream(join(dir, name), { highWaterMark: CHUNK_BYTES });
    },
  };
}

type Place = { at: number; size: number };

async function archiveFiles(path: string, end: () => Promise<void>): Promise<ImageFiles> {
  const places = new Map<string, Place>();
  const links = new Map<string, string>();
  const reader = new ByteReader(createReadStream(path, { highWaterMark: CHUNK_BYTES }));
  for await (const entry of walkTar(reader)) {
    const name = clean(entry.name);
    const at = entry.segments[0]?.at ?? 0;
    if (entry.kind === "file" && entry.segments.length <= 1)
      places.set(name, { at, size: entry.size });
    if (entry.kind === "hardlink") links.set(name, clean(entry.linkName));
    // `docker save` of old says with a link that two layers are the same.
    if (entry.kind === "symlink") links.set(name, clean(join(name, "..", entry.linkName)));
    if (places.size + links.size > ARCHIVE_ENTRIES)
      throw new LvError("IMAGE_TOO_LARGE", `"${path}" has more than ${ARCHIVE_ENTRIES} entries`);
  }
  await reader.close();
  const find = (name: string): Place | null => {
    let at = clean(name);
    for (let follows = 0; follows < LINKS; follows += 1) {
      const place = places.get(at);
      if (place !== undefined) return place;
      at = links.get(at) ?? "";
    }
    return null;
  };
  return {
    [Symbol.asyncDispose]: end,
    has: async (name) => find(name) !== null,
    stream: async (name) => {
      const place = find(name);
      if (place === null) throw missing(name);
      if (place.size === 0) return empty();
      const { at, size } = place;
      return createReadStream(path, { start: at, end: at + size - 1, highWaterMark: CHUNK_BYTES });
    },
  };
}

async function* empty(): AsyncGenerator<Uint8Array> {}

/** Names inside the archive only ever serve as keys: what leads out of it is not found. */
function clean(name: string): string {
  return name
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/");
}
