/**
 * Makes room on the disk of the images, least recently used first: blobs, which only save a
 * download, then images that no root names. Roots are machines in any state but destroyed, pins,
 * builds under way and whatever was asked for a short while ago (a machine that just got its
 * image has not journalled it yet).
 *
 *   free < HIGH ── remove until free ≥ LOW; a pull may ask for its own room
 *   an image goes in two steps: its record (nobody finds it any more), a second look, its bytes.
 *   A crash in between leaves a half image, which the next start removes.
 */
import { statfs } from "node:fs/promises";
import type { Clock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import type { BlobStore } from "./blobs.ts";
import type { ImageCache } from "./cache.ts";

export type DiskRoom = { freeBytes: number; totalBytes: number };

export type Collected = { images: string[]; blobs: number; freedBytes: number };

/** Below this share of the disk the collector begins, and up to that share it goes on. */
const HIGH = 0.1;
const LOW = 0.15;
/** Never below this for images, whatever is asked. */
const FLOOR = 0.02;
const FLOOR_MAX_BYTES = 512 << 20;
const GRACE_MS = 10 * 60_000;
/** A machine that is getting its image right now may not have said so yet. */
const JUST_NOW_MS = 30_000;

export type CollectorOptions = {
  dir: string;
  cache: ImageCache;
  blobs: BlobStore;
  clock: Clock;
  /** An image that is being asked for or built. */
  isBusy: (digest: string) => boolean;
  /** A blob that a build under way needs. */
  isNeeded: (digest: string) => boolean;
  /** Blobs and images that nobody can give again (loaded.ts). */
  kept: () => Promise<ReadonlySet<string>>;
  room?: () => Promise<DiskRoom>;
};

export class Collector {
  readonly #options: CollectorOptions;
  readonly #room: () => Promise<DiskRoom>;
  constructor(options: CollectorOptions) {
    this.#options = options;
    this.#room = options.room ?? (() => roomOf(options.dir));
  }

  /** What a pull may use: all that is free but the floor. */
  async usable(): Promise<{ freeBytes: number; floorBytes: number }> {
    const { freeBytes, totalBytes } = await this.#room();
    return { freeBytes, floorBytes: Math.min(totalBytes * FLOOR, FLOOR_MAX_BYTES) };
  }

  /** Keeps to the watermarks. */
  async collect(roots: ReadonlySet<string>): Promise<Collected> {
    const { freeBytes, totalBytes } = await this.#room();
    if (freeBytes >= totalBytes * HIGH) return { images: [], blobs: 0, freedBytes: 0 };
    return await this.free(totalBytes * LOW - freeBytes, roots);
  }

  /** What nobody needs, wanted or not; `all`: however short a time ago it was used. */
  async prune(all: boolean, roots: ReadonlySet<string>): Promise<Collected> {
    return await this.free(Infinity, roots, all ? JUST_NOW_MS : LIMITS.pruneUnusedMs);
  }

  /** Removes what nobody needs until `bytes` are freed or nothing is left to remove. */
  async free(
    bytes: number,
    roots: ReadonlySet<string>,
    unusedMs: number = GRACE_MS,
  ): Promise<Collected> {
    const done: Collected = { images: [], blobs: 0, freedBytes: 0 };
    const { blobs, cache, isNeeded, clock } = this.#options;
    const kept = await this.#options.kept();
    for (const blob of (await blobs.list()).toSorted(byUse)) {
      if (done.freedBytes >= bytes) return done;
      if (isNeeded(blob.digest) || kept.has(blob.digest)) continue;
      await blobs.drop(blob.digest);
      done.blobs += 1;
      done.freedBytes += blob.sizeBytes;
    }
    const oldest = clock.now() - unusedMs;
    for (const image of (await cache.list()).toSorted(byUse)) {
      if (done.freedBytes >= bytes) return done;
      if (image.pinned || roots.has(image.digest) || image.lastUsedMs > oldest) continue;
      if (kept.has(image.digest)) continue;
      if (!(await cache.remove(image.digest, () => this.#options.isBusy(image.digest)))) continue;
      done.images.push(image.digest);
      done.freedBytes += image.sizeBytes;
    }
    return done;
  }
}

const byUse = (a: { lastUsedMs: number }, b: { lastUsedMs: number }): number =>
  a.lastUsedMs - b.lastUsedMs;

async function roomOf(dir: string): Promise<DiskRoom> {
  const { bavail, blocks, bsize } = await statfs(dir);
  return { freeBytes: bavail * bsize, totalBytes: blocks * bsize };
}
