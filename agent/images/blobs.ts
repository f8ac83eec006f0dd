/**
 * Content-addressed blobs of registries: `<dir>/sha256/<hex>`, complete and verified under that
 * name, but not synced: a power cut may spoil them, which the digest of what is inside tells. A download grows `<hex>.part`, which outlives an interrupted build and is resumed with
 * Range; its bytes are hashed again first, so a torn write cannot survive. One download per
 * digest at a time: later callers wait for the first.
 */
import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { abortReason, type Clock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { Download, type BlobSource } from "./download.ts";
import { temporaryName, writeWhole } from "./durable.ts";
import type { Descriptor } from "./manifest.ts";
import { isDigest } from "../../proto/image-reference.ts";

type Watch = (bytes: number) => void;
/** `fetched`: in this run of the builder, so its bytes were seen whole. */
export type Fetched = { path: string; fetched: boolean };
type Flight = { promise: Promise<Fetched>; watchers: Set<Watch> };

export class BlobStore {
  readonly #dir: string;
  readonly #clock: Clock;
  readonly #flights = new Map<string, Flight>();
  constructor(dir: string, clock: Clock) {
    this.#dir = join(dir, "sha256");
    this.#clock = clock;
  }

  path(digest: string): string {
    return join(this.#dir, digest.slice("sha256:".length));
  }

  /** A small document kept earlier, verified; null when it is not here. */
  async read(digest: string, limitBytes: number): Promise<Uint8Array | null> {
    const size = await sizeOf(this.path(digest));
    if (size === null || size > limitBytes) return null;
    // The collector may have come in between.
    const bytes = await readFile(this.path(digest)).catch(nullWhenMissing);
    if (bytes === null) return null;
    const hex = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
    if (digest === `sha256:${hex}`) return bytes;
    await this.drop(digest);
    return null;
  }

  /** Keeps a small document under its digest, which the caller has computed from these bytes. */
  async put(digest: string, bytes: Uint8Array): Promise<void> {
    await mkdir(this.#dir, { recursive: true });
    await writeWhole(this.path(digest), bytes);
  }

  /** Complete blobs and partial ones nobody is loading; the size is what they take on disk. */
  async list(): Promise<{ digest: string; sizeBytes: number; lastUsedMs: number }[]> {
    const found: { digest: string; sizeBytes: number; lastUsedMs: number }[] = [];
    await mkdir(this.#dir, { recursive: true });
    for (const name of await readdir(this.#dir)) {
      const digest = `sha256:${name.replace(/\.part$/, "")}`;
      if (!isDigest(digest) || this.#flights.has(digest)) continue;
      const stats = await stat(join(this.#dir, name)).catch(nullWhenMissing);
      if (stats !== null) found.push({ digest, sizeBytes: stats.size, lastUsedMs: stats.mtimeMs });
    }
    return found;
  }

  /** Bytes of these blobs that are still to be fetched. */
  async missing(blobs: readonly Descriptor[]): Promise<number> {
    let bytes = 0;
    for (const { digest, size } of blobs) {
      if ((await sizeOf(this.path(digest))) === size) continue;
      bytes += Math.max(size - ((await sizeOf(this.#part(digest))) ?? 0), 0);
    }
    return bytes;
  }

  /**
   * Takes bytes from elsewhere than a registry. `expected` null = whatever their digest is.
   * `claim` is told the digest before there is a blob of that name.
   * Throws IMAGE_CORRUPT for other bytes than expected, and leaves nothing then.
   */
  async take(
    chunks: AsyncIterable<Uint8Array>,
    expected: string | null,
    claim: (digest: string) => Promise<void> = () => Promise.resolve(),
  ): Promise<{ digest: string; size: number }> {
    await mkdir(this.#dir, { recursive: true });
    const temporary = temporaryName(join(this.#dir, "load"));
    const hasher = new Bun.CryptoHasher("sha256");
    let size = 0;
    try {
      const file = await open(temporary, "wx", 0o600);
      try {
        for await (const chunk of chunks) {
          hasher.update(chunk);
          size += chunk.length;
          await file.writeFile(chunk);
        }
      } finally {
        await file.close();
      }
      const digest = `sha256:${hasher.digest("hex")}`;
      if (expected !== null && digest !== expected)
        throw new LvError("IMAGE_CORRUPT", `Blob ${expected} is corrupt: its bytes are ${digest}`);
      await claim(digest);
      await rename(temporary, this.path(digest));
      return { digest, size };
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  /** Removes a blob whose bytes turned out wrong, so that the next pull fetches it again. */
  async drop(digest: string): Promise<void> {
    await rm(this.path(digest), { force: true });
    await this.dropPart(digest);
  }

  /** Removes what an ended download left; one that is under way keeps its file. */
  async dropPart(digest: string): Promise<void> {
    if (!this.#flights.has(digest)) await rm(this.#part(digest), { force: true });
  }

  /**
   * The complete blob; `watch` is told how many of its bytes are here.
   * Throws IMAGE_CORRUPT, REGISTRY_UNAVAILABLE, DISK_FULL (as ENOSPC) or the signal's reason.
   */
  async fetch(
    blob: Descriptor,
    source: BlobSource,
    watch: Watch,
    signal: AbortSignal,
  ): Promise<Fetched> {
    for (;;) {
      if (signal.aborted) throw abortReason(signal);
      if ((await sizeOf(this.path(blob.digest))) === blob.size) {
        watch(blob.size);
        return { path: this.path(blob.digest), fetched: false };
      }
      const running = this.#flights.get(blob.digest);
      if (running === undefined) return await this.#start(blob, source, watch, signal);
      running.watchers.add(watch);
      try {
        return await running.promise;
      } catch {
        // The other build's end is not ours: look again, then download under our own signal.
      } finally {
        running.watchers.delete(watch);
      }
    }
  }

  async #start(
    blob: Descriptor,
    source: BlobSource,
    watch: Watch,
    signal: AbortSignal,
  ): Promise<Fetched> {
    const watchers = new Set([watch]);
    const onBytes = (have: number): void => {
      for (const each of watchers) each(have);
    };
    const download = new Download(blob, source, this.#part(blob.digest), onBytes, signal);
    const promise = this.#finish(download, blob.digest).finally(() =>
      this.#flights.delete(blob.digest),
    );
    this.#flights.set(blob.digest, { promise, watchers });
    return await promise;
  }

  async #finish(download: Download, digest: string): Promise<Fetched> {
    await mkdir(this.#dir, { recursive: true });
    await download.run(this.#clock);
    await rename(this.#part(digest), this.path(digest));
    return { path: this.path(digest), fetched: true };
  }

  #part(digest: string): string {
    return `${this.path(digest)}.part`;
  }
}

async function sizeOf(path: string): Promise<number | null> {
  return (await stat(path).catch(nullWhenMissing))?.size ?? null;
}

function nullWhenMissing(error: unknown): null {
  if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
  throw error;
}
