/**
 * What people do to the finished images of this host: look, pin, remove, prune. Runs in the
 * worker beside the builder, whose cache it is. Nothing here takes an image that a machine needs
 * or that somebody is asking for at this moment.
 */
import { LvError } from "../../proto/errors.ts";
import type { ImageCache } from "./cache.ts";
import type { Collected, Collector } from "./collector.ts";
import type { LoadedImages } from "./loaded.ts";
import type { ImageNames } from "./names.ts";
import type { NamedImage, Removed } from "./types.ts";

export type StockOptions = {
  cache: ImageCache;
  collector: Collector;
  names: ImageNames;
  loaded: LoadedImages;
  /** One removal at a time; builds that begin meanwhile wait for it. */
  removing: <T>(remove: () => Promise<T>) => Promise<T>;
  isBusy: (digest: string) => boolean;
  /** Manifests that machines need. */
  roots: () => ReadonlySet<string>;
  onChange: () => void;
  note: (message: string, fields: Record<string, unknown>) => void;
};

export class ImageStock {
  readonly #options: StockOptions;
  constructor(options: StockOptions) {
    this.#options = options;
  }

  /** The one used last first. */
  async list(): Promise<NamedImage[]> {
    const { cache, names } = this.#options;
    const images: NamedImage[] = [];
    for (const image of await cache.list())
      images.push({ ...image, references: await names.of(image.digest) });
    return images.toSorted((a, b) => b.lastUsedMs - a.lastUsedMs);
  }

  async pin(digest: string, pinned: boolean): Promise<void> {
    const { cache, onChange } = this.#options;
    if ((await cache.find(digest)) === null) throw notHere(digest);
    await cache.pin(digest, pinned);
    onChange();
  }

  async remove(digest: string): Promise<Removed> {
    const { cache, loaded, removing, isBusy, roots } = this.#options;
    const image = (await cache.list()).find((one) => one.digest === digest);
    if (image === undefined) throw notHere(digest);
    const inUse = image.pinned ? "is pinned" : roots().has(digest) ? "has machines" : "";
    if (inUse !== "") throw new LvError("IMAGE_IN_USE", `Image ${digest} ${inUse} on its host`);
    const gone = await removing(() => cache.remove(digest, () => isBusy(digest)));
    if (!gone) throw new LvError("IMAGE_IN_USE", `Image ${digest} is being asked for`);
    await loaded.drop(digest);
    return await this.#forget({ digests: [digest], freedBytes: image.sizeBytes });
  }

  /** Without `all` only what nothing has used for a day. */
  async prune(all: boolean): Promise<Removed> {
    const { collector, removing, roots } = this.#options;
    return await this.collected(await removing(() => collector.prune(all, roots())));
  }

  /** After every removal, whoever wanted it. */
  async collected(done: Collected): Promise<Removed> {
    if (done.freedBytes > 0) this.#options.note("images were removed to make room", { ...done });
    return await this.#forget({ digests: done.images, freedBytes: done.freedBytes });
  }

  async #forget(removed: Removed): Promise<Removed> {
    await this.#options.names.forget(removed.digests);
    if (removed.digests.length > 0) this.#options.onChange();
    return removed;
  }
}

function notHere(digest: string): LvError {
  return new LvError("IMAGE_NOT_FOUND", `Image ${digest.slice(0, 80)} is not on this host`);
}
