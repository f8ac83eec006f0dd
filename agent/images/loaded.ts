/**
 * Images that were loaded from files: no registry can give them again, so the collector leaves
 * them alone for a day. One claim per load, `<blobs>/loaded/<id>.json`, a list of digests:
 *
 *   load: each blob is claimed before it takes its name … the manifest last
 *   built: the claim is for the manifest alone; the layers have done their work
 *   a day after its last change the claim is void, whatever became of the load
 *
 * Claims are files because an image may be loaded by another process than the agent's.
 */
import { randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Clock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import { writeWhole } from "./durable.ts";

const Claim = z.array(z.string());
type Found = { path: string; digests: string[]; madeMs: number };

export class LoadedImages {
  readonly #dir: string;
  readonly #clock: Clock;
  constructor(blobsDir: string, clock: Clock) {
    this.#dir = join(blobsDir, "loaded");
    this.#clock = clock;
  }

  /** For one load; what it returns claims one more digest. */
  claim(): (digest: string) => Promise<void> {
    const path = join(this.#dir, `${randomUUID()}.json`);
    const digests: string[] = [];
    return async (digest) => {
      digests.push(digest);
      await mkdir(this.#dir, { recursive: true });
      await writeWhole(path, JSON.stringify(digests));
    };
  }

  /** Digests of blobs and manifests that may not be collected yet. Forgets void claims. */
  async kept(): Promise<Set<string>> {
    const kept = new Set<string>();
    for (const { path, digests, madeMs } of await this.#claims())
      if (this.#clock.now() - madeMs > LIMITS.loadedKeptMs) await rm(path, { force: true });
      else for (const digest of digests) kept.add(digest);
    return kept;
  }

  /** The image is built: its layers are not needed for it any more. */
  async built(manifest: string): Promise<void> {
    for (const { path, digests, madeMs } of await this.#claims()) {
      if (digests.length < 2 || !digests.includes(manifest)) continue;
      await writeWhole(path, JSON.stringify([manifest]));
      await utimes(path, madeMs / 1000, madeMs / 1000);
    }
  }

  /** The image was removed by somebody who meant it. */
  async drop(manifest: string): Promise<void> {
    for (const { path, digests } of await this.#claims())
      if (digests.includes(manifest)) await rm(path, { force: true });
  }

  async #claims(): Promise<Found[]> {
    const found: Found[] = [];
    for (const name of await readdir(this.#dir).catch(() => [])) {
      if (!name.endsWith(".json")) continue;
      const path = join(this.#dir, name);
      try {
        const digests = Claim.parse(JSON.parse(await readFile(path, "utf8")));
        found.push({ path, digests, madeMs: (await stat(path)).mtimeMs });
      } catch {
        // Gone meanwhile, or spoilt by a power cut, as its load is then too.
      }
    }
    return found;
  }
}
