/**
 * Content-addressed blobs of registries: `<dir>/sha256/<hex>`, complete and verified under that
 * name. A download grows `<hex>.part`, which outlives an interrupted build and is resumed with
 * Range; its bytes are hashed again first, so a torn write cannot survive. One download per
 * digest at a time: later callers wait for the first.
 */
import { createReadStream } from "node:fs";
import { mkdir, open, readFile, rename, rm, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { Backoff } from "../../lib/backoff.ts";
import { abortReason, type Clock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { writeDurably } from "./durable.ts";
import type { Descriptor } from "./manifest.ts";
import { readWithIdleLimit } from "./registry.ts";

/** Attempts in a row that brought no new byte. */
const FRUITLESS_ATTEMPTS = 4;

export type BlobSource = {
  /** For messages. */
  image: string;
  /** As RegistryClient.blob. */
  open(digest: string, from: number, signal: AbortSignal): Promise<Response>;
};

type Watch = (bytes: number) => void;
type Flight = { promise: Promise<string>; watchers: Set<Watch>; bytes: number };

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
    const bytes = await readFile(this.path(digest));
    if (sha256(bytes) === digest) return bytes;
    await this.drop(digest);
    return null;
  }

  /** Keeps a small document under its digest, which the caller has computed from these bytes. */
  async put(digest: string, bytes: Uint8Array): Promise<void> {
    await mkdir(this.#dir, { recursive: true });
    await writeDurably(this.path(digest), bytes);
  }

  /** Removes a blob whose bytes turned out wrong, so that the next pull fetches it again. */
  async drop(digest: string): Promise<void> {
    await rm(this.path(digest), { force: true });
    await this.dropPart(digest);
  }

  /** Removes what an ended download left; one that is under way keeps its file. */
  async dropPart(digest: string): Promise<void> {
    if (!this.#flights.has(digest)) await rm(`${this.path(digest)}.part`, { force: true });
  }

  /**
   * The path of the complete blob; `watch` is told how many of its bytes are here.
   * Throws IMAGE_CORRUPT, REGISTRY_UNAVAILABLE, DISK_FULL (as ENOSPC) or the signal's reason.
   */
  async fetch(
    blob: Descriptor,
    source: BlobSource,
    watch: Watch,
    signal: AbortSignal,
  ): Promise<string> {
    for (;;) {
      if (signal.aborted) throw abortReason(signal);
      const size = await sizeOf(this.path(blob.digest));
      if (size === blob.size) {
        watch(blob.size);
        return this.path(blob.digest);
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
  ): Promise<string> {
    const flight: Flight = {
      promise: Promise.resolve(""),
      watchers: new Set([watch]),
      bytes: 0,
    };
    flight.promise = this.#download(blob, source, flight, signal).finally(() =>
      this.#flights.delete(blob.digest),
    );
    this.#flights.set(blob.digest, flight);
    return await flight.promise;
  }

  async #download(
    blob: Descriptor,
    source: BlobSource,
    flight: Flight,
    signal: AbortSignal,
  ): Promise<string> {
    await mkdir(this.#dir, { recursive: true });
    const part = `${this.path(blob.digest)}.part`;
    const backoff = new Backoff({ baseMs: 300, capMs: 3_000 });
    let fruitless = 0;
    let mayRestart = true;
    for (;;) {
      const before = (await sizeOf(part)) ?? 0;
      const outcome = await this.#attempt(blob, source, part, flight, signal);
      if (outcome.end === "complete") {
        await rename(part, this.path(blob.digest));
        return this.path(blob.digest);
      }
      if (outcome.end === "wrong") {
        await rm(part, { force: true });
        // A resumed file may have been torn by a crash: the registry gets one clean chance.
        if (!outcome.resumed || !mayRestart) throw corrupt(blob, source.image, outcome.was);
        mayRestart = false;
        continue;
      }
      fruitless = ((await sizeOf(part)) ?? 0) > before ? 0 : fruitless + 1;
      if (fruitless >= FRUITLESS_ATTEMPTS)
        throw new LvError(
          "REGISTRY_UNAVAILABLE",
          `The download of blob ${blob.digest} of image "${source.image}" breaks off again and again`,
          { cause: outcome.cause },
        );
      await this.#clock.sleep(backoff.next(), signal);
    }
  }

  async #attempt(
    blob: Descriptor,
    source: BlobSource,
    part: string,
    flight: Flight,
    signal: AbortSignal,
  ): Promise<Outcome> {
    const hasher = new Bun.CryptoHasher("sha256");
    let have = (await sizeOf(part)) ?? 0;
    if (have > blob.size) have = await forget(part);
    if (have > 0) for await (const chunk of createReadStream(part)) hasher.update(chunk as Buffer);
    const resumed = have > 0;
    if (have < blob.size || blob.size === 0) {
      const response = await source.open(blob.digest, have, signal);
      const start = response.status === 206 ? rangeStart(response) : 0;
      if (response.status === 416 || start !== have) {
        // The registry gives another part than asked for: begin again with what it does give.
        have = await forget(part);
        if (response.status !== 200) {
          await response.body?.cancel();
          return { end: "broken", cause: new Error(`range refused with ${response.status}`) };
        }
        hasher.digest();
        return await this.#receive(
          blob,
          response,
          part,
          have,
          new Bun.CryptoHasher("sha256"),
          flight,
          false,
          signal,
        );
      }
      return await this.#receive(blob, response, part, have, hasher, flight, resumed, signal);
    }
    const was = `sha256:${hasher.digest("hex")}`;
    return was === blob.digest ? { end: "complete" } : { end: "wrong", was, resumed };
  }

  async #receive(
    blob: Descriptor,
    response: Response,
    part: string,
    from: number,
    hasher: Bun.CryptoHasher,
    flight: Flight,
    resumed: boolean,
    signal: AbortSignal,
  ): Promise<Outcome> {
    const announced = Number(response.headers.get("content-length") ?? Number.NaN);
    if (Number.isFinite(announced) && announced + from !== blob.size) {
      await response.body?.cancel();
      return { end: "wrong", was: `${announced + from} bytes, not ${blob.size}`, resumed };
    }
    const file = await open(part, from > 0 ? "a" : "w", 0o600);
    let have = from;
    try {
      const body = readWithIdleLimit(response, LIMITS.registryIdleTimeoutMs);
      for await (const chunk of interrupted(body, signal)) {
        have += chunk.length;
        if (have > blob.size) return { end: "wrong", was: `more than ${blob.size} bytes`, resumed };
        hasher.update(chunk);
        await writeAll(file, chunk);
        flight.bytes = have;
        for (const watch of flight.watchers) watch(have);
      }
      await file.sync();
    } catch (error) {
      if (signal.aborted) throw abortReason(signal);
      if (error instanceof Error && "code" in error && error.code === "ENOSPC") throw error;
      return { end: "broken", cause: error };
    } finally {
      await file.close();
    }
    if (have < blob.size) return { end: "broken", cause: new Error("the body ended early") };
    const was = `sha256:${hasher.digest("hex")}`;
    return was === blob.digest ? { end: "complete" } : { end: "wrong", was, resumed };
  }
}

type Outcome =
  | { end: "complete" }
  | { end: "wrong"; was: string; resumed: boolean }
  | { end: "broken"; cause: unknown };

function corrupt(blob: Descriptor, image: string, was: string): LvError {
  return new LvError(
    "IMAGE_CORRUPT",
    `Blob ${blob.digest} of image "${image}" is corrupt: its bytes are ${was}`,
  );
}

/** Ends the iteration with the signal's reason even while the source is silent. */
async function* interrupted(
  chunks: AsyncGenerator<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    if (signal.aborted) throw abortReason(signal);
    yield chunk;
  }
}

async function writeAll(file: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let done = 0; done < chunk.length;) {
    const { bytesWritten } = await file.write(chunk, done, chunk.length - done);
    done += bytesWritten;
  }
}

/** First byte of a 206's Content-Range (RFC 9110 §14.4); -1 when it does not say. */
function rangeStart(response: Response): number {
  const match = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  return match === null ? -1 : Number(match[1]);
}

async function forget(part: string): Promise<0> {
  await rm(part, { force: true });
  return 0;
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
}

function sha256(bytes: Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}
