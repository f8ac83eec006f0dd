/**
 * The image pipeline without images. References decide: `missing…` is unknown to its
 * registry, `slow…` is built when `release` is called, everything else is there. The
 * image's CMD is `idle`. `private…` wants the login "user" with the password "secret".
 */
import { readFile } from "node:fs/promises";
import { abortReason } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { normalReference } from "../../proto/image-reference.ts";
import type {
  BuiltImage,
  EnsureOptions,
  ImageConfig,
  Images,
  LoadedImage,
  Login,
  NamedImage,
  Removed,
} from "../../agent/images/types.ts";

export const IMAGE_CONFIG: ImageConfig = {
  entrypoint: null,
  cmd: ["idle"],
  env: ["PATH=/bin", "FROM_IMAGE=1"],
  user: "",
  workingDir: "",
  stopSignal: "",
};

export class FakeImages implements Images {
  readonly #config: ImageConfig;
  readonly #gate = Promise.withResolvers<void>();
  /** Waits under way. */
  waiting = 0;
  /** Builds that were carried to their end. */
  built = 0;
  closed = false;
  changes = 0;
  /** Archives that were loaded, as their bytes. */
  readonly loads: Uint8Array[] = [];
  readonly #images = new Map<string, NamedImage>();
  /** Digests that cannot be removed. */
  readonly needed = new Set<string>();

  constructor(config: Partial<ImageConfig> = {}) {
    this.#config = { ...IMAGE_CONFIG, ...config };
  }

  release(): void {
    this.#gate.resolve();
  }

  async ensure(asked: string, options: EnsureOptions = {}): Promise<BuiltImage> {
    // Pulls name images in full.
    const reference = asked.replace(/^docker\.io\/(library\/)?/, "");
    options.onProgress?.({ phase: "resolving", bytesDone: 0, bytesTotal: 0, layers: 0 });
    if (reference.startsWith("missing"))
      throw new LvError("IMAGE_NOT_FOUND", `Image "${reference}" was not found`);
    if (reference.startsWith("private")) checkLogin(options.login ?? null);
    if (/^(private-)?slow/.test(reference)) {
      const half = { bytesDone: 50, bytesTotal: 100, layers: 2, layersDone: 1 };
      options.onProgress?.({ phase: "pulling", ...half, bytesPerSecond: 25 });
      await this.#wait(options.signal);
    }
    this.built += 1;
    options.onProgress?.({ phase: "ready", bytesDone: 1, bytesTotal: 1, layers: 1 });
    const digest = digestOf(normalReference(asked) ?? asked);
    this.#keep(digest, normalReference(asked) ?? asked);
    return { digest, squashfsPath: "/dev/null", sizeBytes: 1, config: this.#config };
  }

  list(): Promise<NamedImage[]> {
    return Promise.resolve([...this.#images.values()]);
  }

  pin(digest: string, pinned: boolean): Promise<void> {
    const image = this.#images.get(digest);
    if (image === undefined) throw new LvError("IMAGE_NOT_FOUND", `No image ${digest}`);
    this.#images.set(digest, { ...image, pinned });
    this.changes += 1;
    return Promise.resolve();
  }

  remove(digest: string): Promise<Removed> {
    const image = this.#images.get(digest);
    if (image === undefined) throw new LvError("IMAGE_NOT_FOUND", `No image ${digest}`);
    if (image.pinned || this.needed.has(digest))
      throw new LvError("IMAGE_IN_USE", `Image ${digest} is needed`);
    this.#images.delete(digest);
    this.changes += 1;
    return Promise.resolve({ digests: [digest], freedBytes: image.sizeBytes });
  }

  async prune(all: boolean): Promise<Removed> {
    const free = [...this.#images.values()].filter(
      ({ pinned, digest }) => all && !pinned && !this.needed.has(digest),
    );
    for (const { digest } of free) await this.remove(digest);
    return { digests: free.map(({ digest }) => digest), freedBytes: free.length };
  }

  async load(path: string, tag: string | null): Promise<LoadedImage> {
    const bytes = await readFile(path);
    this.loads.push(bytes);
    if (bytes.toString("latin1", 0, 3) === "bad")
      throw new LvError("IMAGE_CORRUPT", "The archive is bad");
    const digest = digestOf(bytes);
    const reference = `localhost/${tag ?? "loaded"}@${digest}`;
    this.#keep(digest, reference);
    return { reference, digest, sizeBytes: bytes.length };
  }

  #keep(digest: string, reference: string): void {
    const image = { digest, sizeBytes: 1, lastUsedMs: 1_000, pinned: false };
    this.#images.set(digest, { ...this.#images.get(digest), ...image, references: [reference] });
    this.changes += 1;
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  async #wait(signal: AbortSignal | undefined): Promise<void> {
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    signal?.addEventListener("abort", () => reject(abortReason(signal)), { once: true });
    this.waiting += 1;
    try {
      await Promise.race([this.#gate.promise, aborted]);
    } finally {
      this.waiting -= 1;
    }
  }
}

function digestOf(bytes: string | Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

function checkLogin(login: Login | null): void {
  if (login?.username !== "user" || login.password !== "secret")
    throw new LvError("IMAGE_UNAUTHORIZED", "The registry wants to know who asks");
}
