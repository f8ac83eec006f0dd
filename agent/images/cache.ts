/**
 * Finished images, the time of the record's last use as its mtime, `<key>.pin` for the pinned: `<dir>/images/<key>.squashfs` with `<key>.json` beside it. The json is
 * written last, so an image is there when its json is; anything else in the folder is what an
 * interrupted build left and goes at start.
 */
import { readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { syncDirectory, temporaryName, writeDurably, writeWhole } from "./durable.ts";
import { PLATFORM } from "./manifest.ts";
import { WRITER_VERSION } from "./squashfs.ts";
import type { BuiltImage, ImageConfig, StoredImage } from "./types.ts";

const Record = z.object({
  digest: z.string(),
  platform: z.string(),
  writer: z.string(),
  sizeBytes: z.int(),
  config: z.object({
    entrypoint: z.array(z.string()).nullable(),
    cmd: z.array(z.string()).nullable(),
    env: z.array(z.string()),
    user: z.string(),
    workingDir: z.string(),
    stopSignal: z.string(),
  }),
});

const platform = `${PLATFORM.os}/${PLATFORM.architecture}`;

export class ImageCache {
  readonly #dir: string;
  constructor(dir: string) {
    this.#dir = join(dir, "images");
  }

  /** sha256(manifest digest ‖ platform ‖ writer and its options). */
  key(digest: string): string {
    const parts = `${digest}\n${platform}\n${WRITER_VERSION}`;
    return new Bun.CryptoHasher("sha256").update(parts).digest("hex");
  }

  #path(digest: string, extension: string): string {
    return join(this.#dir, `${this.key(digest)}.${extension}`);
  }

  /** Removes what an interrupted build left under its own name. */
  async clean(): Promise<void> {
    const names = new Set(await readdir(this.#dir));
    for (const name of names) {
      const isHalf = name.endsWith(".squashfs") && !names.has(name.replace(/\.squashfs$/, ".json"));
      if (isHalf) await rm(join(this.#dir, name), { force: true });
    }
  }

  /** The finished image of a manifest; null when it is not here or not whole. */
  async find(digest: string): Promise<BuiltImage | null> {
    const squashfsPath = this.#path(digest, "squashfs");
    try {
      const record = Record.parse(JSON.parse(await readFile(this.#path(digest, "json"), "utf8")));
      if (record.digest !== digest) return null;
      if ((await stat(squashfsPath)).size !== record.sizeBytes) return null;
      const { sizeBytes, config } = record;
      return { digest, squashfsPath, sizeBytes, config };
    } catch (error) {
      if (isAbsent(error)) return null;
      throw error;
    }
  }

  /** Unreadable records are left out: the next build of their image replaces them. */
  async list(): Promise<StoredImage[]> {
    const images: StoredImage[] = [];
    const names = new Set(await readdir(this.#dir));
    for (const name of names) {
      if (!name.endsWith(".json")) continue;
      const path = join(this.#dir, name);
      try {
        const record = Record.parse(JSON.parse(await readFile(path, "utf8")));
        const pinned = names.has(name.replace(/\.json$/, ".pin"));
        const { digest, sizeBytes } = record;
        images.push({ digest, sizeBytes, pinned, lastUsedMs: (await stat(path)).mtimeMs });
      } catch (error) {
        if (!isAbsent(error)) throw error;
      }
    }
    return images;
  }

  /** Says that the image was used now. */
  async touch(digest: string, nowMs: number): Promise<void> {
    await utimes(this.#path(digest, "json"), nowMs / 1000, nowMs / 1000);
  }

  /** A pinned image is never collected. */
  async pin(digest: string, pinned: boolean): Promise<void> {
    if (pinned) await writeDurably(this.#path(digest, "pin"), "");
    else await rm(this.#path(digest, "pin"), { force: true });
  }

  /** In two steps with a look at `isBusy` before each; false = it is busy and stays. */
  async remove(digest: string, isBusy: () => boolean): Promise<boolean> {
    const record = this.#path(digest, "json");
    const gone = temporaryName(record);
    if (isBusy()) return false;
    await rename(record, gone);
    if (isBusy()) {
      await rename(gone, record);
      return false;
    }
    await rm(this.#path(digest, "squashfs"), { force: true });
    await rm(this.#path(digest, "pin"), { force: true });
    await rm(gone);
    return true;
  }

  /**
   * `write` makes and syncs the file under the temporary name it gets and returns its size;
   * then the image takes its final name. When it throws nothing is left.
   */
  async add(
    digest: string,
    config: ImageConfig,
    write: (path: string) => Promise<number>,
  ): Promise<BuiltImage> {
    const squashfsPath = this.#path(digest, "squashfs");
    const temporary = temporaryName(squashfsPath);
    try {
      const sizeBytes = await write(temporary);
      // Its record comes after it, in the same directory, whose sync is for both.
      await rename(temporary, squashfsPath);
      const record = { digest, platform, writer: WRITER_VERSION, sizeBytes, config };
      // A record that a power cut spoils is no record, and the image is built again.
      await writeWhole(this.#path(digest, "json"), `${JSON.stringify(record, null, 2)}\n`);
      await syncDirectory(this.#dir);
      return { digest, squashfsPath, sizeBytes, config };
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }
}

/** Not there, or not a record. */
function isAbsent(error: unknown): boolean {
  const isMissing = error instanceof Error && "code" in error && error.code === "ENOENT";
  return isMissing || error instanceof SyntaxError || error instanceof z.ZodError;
}
