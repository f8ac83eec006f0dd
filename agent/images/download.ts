/**
 * One blob from a registry into its `.part` file.
 *
 *   have = size of .part, hashed ── Range from there ─┬─ 206 from there → append
 *                                                     ├─ 200 → start again with it
 *                                                     └─ else → forget, try again
 *   all bytes here → sha256 compared → "complete" | "wrong";  cut off → "broken", resumed later
 */
import { createReadStream } from "node:fs";
import { open, rm, stat, type FileHandle } from "node:fs/promises";
import { Backoff } from "../../lib/backoff.ts";
import { abortReason, type Clock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import type { Descriptor } from "./manifest.ts";

/** Attempts in a row that got no further than any before. */
const FRUITLESS_ATTEMPTS = 4;

export type BlobSource = {
  /** For messages. */
  image: string;
  /** As RegistryClient.blob. */
  open(digest: string, from: number, signal: AbortSignal): Promise<Response>;
  /** As RegistryClient.chunks. */
  chunks(response: Response): AsyncIterable<Uint8Array>;
};

type Outcome =
  | { end: "complete" }
  | { end: "wrong"; was: string; resumed: boolean }
  | { end: "broken"; cause: unknown };

/** What is in the `.part` file so far. */
type Progress = { have: number; hasher: Bun.CryptoHasher; resumed: boolean };

const nothing = (): Progress => ({
  have: 0,
  hasher: new Bun.CryptoHasher("sha256"),
  resumed: false,
});

export class Download {
  readonly #blob: Descriptor;
  readonly #source: BlobSource;
  readonly #part: string;
  readonly #onBytes: (have: number) => void;
  readonly #signal: AbortSignal;
  constructor(
    blob: Descriptor,
    source: BlobSource,
    part: string,
    onBytes: (have: number) => void,
    signal: AbortSignal,
  ) {
    this.#blob = blob;
    this.#source = source;
    this.#part = part;
    this.#onBytes = onBytes;
    this.#signal = signal;
  }

  /** Returns when the `.part` file is whole and verified. Throws as BlobStore.fetch. */
  async run(clock: Clock): Promise<void> {
    const backoff = new Backoff({ baseMs: 300, capMs: 3_000 });
    // Against the most there ever was: a registry that lets every second attempt lose what the
    // first one brought makes no progress.
    let best = await sizeOf(this.#part);
    let fruitless = 0;
    let mayRestart = true;
    for (;;) {
      const outcome = await this.#attempt();
      if (outcome.end === "complete") return;
      if (outcome.end === "wrong") {
        await rm(this.#part, { force: true });
        // A resumed file may have been torn by a crash: the registry gets one clean chance.
        if (!outcome.resumed || !mayRestart) throw this.#corrupt(outcome.was);
        mayRestart = false;
        continue;
      }
      const have = await sizeOf(this.#part);
      fruitless = have > best ? 0 : fruitless + 1;
      best = Math.max(best, have);
      if (fruitless >= FRUITLESS_ATTEMPTS) throw this.#breaksOff(outcome.cause);
      await clock.sleep(backoff.next(), this.#signal);
    }
  }

  async #attempt(): Promise<Outcome> {
    const progress = await this.#hashPart();
    const { size, digest } = this.#blob;
    // An empty blob is asked for too: nothing tells it from one that was never begun.
    if (progress.have === size && size > 0) return this.#verdict(progress);
    const response = await this.#source.open(digest, progress.have, this.#signal);
    const start = response.status === 206 ? rangeStart(response) : 0;
    if (response.status === 200 && progress.have > 0)
      return await this.#receive(response, nothing());
    if (response.status !== 416 && start === progress.have)
      return await this.#receive(response, progress);
    await response.body?.cancel();
    await rm(this.#part, { force: true });
    return { end: "broken", cause: new Error(`the registry answered a range with ${start}`) };
  }

  async #hashPart(): Promise<Progress> {
    const progress = nothing();
    if ((await sizeOf(this.#part)) > this.#blob.size) await rm(this.#part, { force: true });
    if ((await sizeOf(this.#part)) === 0) return progress;
    for await (const chunk of createReadStream(this.#part)) {
      progress.hasher.update(chunk as Buffer);
      progress.have += (chunk as Buffer).length;
    }
    progress.resumed = true;
    return progress;
  }

  #verdict({ hasher, resumed }: Progress): Outcome {
    const was = `sha256:${hasher.digest("hex")}`;
    return was === this.#blob.digest ? { end: "complete" } : { end: "wrong", was, resumed };
  }

  async #receive(response: Response, progress: Progress): Promise<Outcome> {
    const { size } = this.#blob;
    const { resumed } = progress;
    const announced = Number(response.headers.get("content-length") ?? Number.NaN);
    if (Number.isFinite(announced) && announced + progress.have !== size) {
      await response.body?.cancel();
      const was = `${announced + progress.have} bytes long instead of ${size}`;
      return { end: "wrong", was, resumed };
    }
    const file = await open(this.#part, progress.have > 0 ? "a" : "w", 0o600);
    try {
      for await (const chunk of this.#source.chunks(response)) {
        if (this.#signal.aborted) throw abortReason(this.#signal);
        progress.have += chunk.length;
        if (progress.have > size)
          return { end: "wrong", was: `more than ${size} bytes long`, resumed };
        progress.hasher.update(chunk);
        await writeAll(file, chunk);
        this.#onBytes(progress.have);
      }
    } catch (error) {
      if (this.#signal.aborted) throw abortReason(this.#signal);
      if (error instanceof Error && "code" in error && error.code === "ENOSPC") throw error;
      return { end: "broken", cause: error };
    } finally {
      await file.close();
    }
    if (progress.have < size) return { end: "broken", cause: new Error("the body ended early") };
    return this.#verdict(progress);
  }

  #corrupt(was: string): LvError {
    const is = was.startsWith("sha256:") ? `its bytes are ${was}` : `it is ${was}`;
    return new LvError(
      "IMAGE_CORRUPT",
      `Blob ${this.#blob.digest} of image "${this.#source.image}" is corrupt: ${is}`,
    );
  }

  #breaksOff(cause: unknown): LvError {
    return new LvError(
      "REGISTRY_UNAVAILABLE",
      `The download of blob ${this.#blob.digest} of image "${this.#source.image}" breaks off again and again`,
      { cause },
    );
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

/** 0 for a file that is not there. */
async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return 0;
    throw error;
  }
}
