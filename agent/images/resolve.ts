/** What a reference means now: the manifest of linux/amd64, down through indexes. */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { formatReference } from "../../proto/image-reference.ts";
import type { BlobStore } from "./blobs.ts";
import { choosePlatform, type Manifest, parseDocument } from "./manifest.ts";
import type { Asked, RegistryClient } from "./registry.ts";

/** An index may name an index; deeper nesting is nobody's image. */
const INDEX_DEPTH = 3;

export type Resolved = { reference: Asked; image: string; digest: string; manifest: Manifest };

export type ResolverOptions = {
  registry: RegistryClient;
  /** Documents that are here already are not fetched again. */
  blobs: BlobStore;
  lifetime: AbortSignal;
  timeoutMs: number;
};

export class Resolver {
  readonly #options: ResolverOptions;
  constructor(options: ResolverOptions) {
    this.#options = options;
  }

  async resolve(reference: Asked): Promise<Resolved> {
    const image = formatReference(reference);
    const late = new AbortController();
    const timer = setTimeout(
      () =>
        late.abort(
          new LvError(
            "REGISTRY_UNAVAILABLE",
            `Registry "${reference.registry}" takes too long to say what "${image}" is`,
          ),
        ),
      this.#options.timeoutMs,
    );
    try {
      return await this.#find(
        reference,
        image,
        AbortSignal.any([this.#options.lifetime, late.signal]),
      );
    } finally {
      clearTimeout(timer);
    }
  }

  async #find(reference: Asked, image: string, signal: AbortSignal): Promise<Resolved> {
    let target = reference.digest ?? reference.tag ?? "latest";
    if (reference.digest === null) {
      // HEAD costs no pull quota; a manifest that is here already is not fetched again.
      target = (await this.#options.registry.resolve(reference, target, signal)) ?? target;
    }
    for (let depth = 0; depth < INDEX_DEPTH; depth += 1) {
      const { bytes, digest, contentType } = await this.#document(reference, target, signal);
      const document = parseDocument(bytes, contentType, image);
      if (document.kind === "manifest")
        return { reference, image, digest, manifest: document.manifest };
      target = choosePlatform(document.index, image).digest;
    }
    throw new LvError("IMAGE_UNSUPPORTED", `Image "${image}" has an index of indexes of indexes`);
  }

  async #document(reference: Asked, target: string, signal: AbortSignal) {
    if (target.startsWith("sha256:")) {
      const kept = await this.#options.blobs.read(target, LIMITS.manifestBytes);
      if (kept !== null) return { bytes: kept, digest: target, contentType: "" };
    }
    const fetched = await this.#options.registry.manifest(reference, target, signal);
    await this.#options.blobs.put(fetched.digest, fetched.bytes);
    return fetched;
  }
}
