/**
 * The image pipeline without images. References decide: `missing…` is unknown to its
 * registry, `slow…` is built when `release` is called, everything else is there. The
 * image's CMD is `idle`.
 */
import { abortReason } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import type { BuiltImage, EnsureOptions, ImageConfig, Images } from "../../agent/images/types.ts";

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

  constructor(config: Partial<ImageConfig> = {}) {
    this.#config = { ...IMAGE_CONFIG, ...config };
  }

  release(): void {
    this.#gate.resolve();
  }

  async ensure(reference: string, options: EnsureOptions = {}): Promise<BuiltImage> {
    options.onProgress?.({ phase: "resolving", bytesDone: 0, bytesTotal: 0, layers: 0 });
    if (reference.startsWith("missing"))
      throw new LvError("IMAGE_NOT_FOUND", `Image "${reference}" was not found`);
    if (reference.startsWith("slow")) await this.#wait(options.signal);
    this.built += 1;
    options.onProgress?.({ phase: "ready", bytesDone: 1, bytesTotal: 1, layers: 1 });
    const digest = `sha256:${new Bun.CryptoHasher("sha256").update(reference).digest("hex")}`;
    return { digest, squashfsPath: "/dev/null", sizeBytes: 1, config: this.#config };
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
