/** How far a build is: "pulling" until all blobs are here, then "converting". */
import type { Descriptor } from "./manifest.ts";
import type { Garbage } from "./garbage.ts";
import type { ImageProgress } from "./types.ts";

export type Report = (progress: Omit<ImageProgress, "layers">) => void;

export class PullProgress {
  readonly #report: Report;
  readonly #garbage: Garbage;
  readonly #layerBytes: number;
  readonly #blobBytes: number;
  readonly #here = new Map<string, number>();
  /** Of layers worked through before the present one. */
  #before = 0;
  #inLayer = 0;
  /** The layer that is worked on, from 1. */
  #layer = 0;
  readonly #layers: readonly Descriptor[];
  constructor(layers: readonly Descriptor[], report: Report, garbage: Garbage) {
    this.#garbage = garbage;
    this.#layers = layers;
    this.#report = report;
    const sizes = new Map(layers.map(({ digest, size }) => [digest, size]));
    this.#blobBytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);
    this.#layerBytes = layers.reduce((sum, { size }) => sum + size, 0);
  }

  /** For the download of one blob: bytes of it that are here. */
  pulling({ digest }: Descriptor): (bytes: number) => void {
    return (bytes) => {
      this.#garbage.made(bytes - (this.#here.get(digest) ?? 0));
      this.#here.set(digest, bytes);
      this.#tell();
    };
  }

  /** For the next layer's conversion: bytes of its blob that are worked through. */
  converting({ size }: Descriptor): (bytes: number) => void {
    this.#before += this.#inLayer;
    this.#layer += 1;
    this.#inLayer = 0;
    return (bytes) => {
      // Its unpacked bytes count too: layers shrink to a third or so.
      this.#garbage.made(2 * (bytes - this.#inLayer));
      this.#inLayer = Math.min(bytes, size);
      this.#tell();
    };
  }

  #tell(): void {
    let pulled = 0;
    for (const bytes of this.#here.values()) pulled += bytes;
    if (pulled < this.#blobBytes)
      this.#report({
        phase: "pulling",
        bytesDone: pulled,
        bytesTotal: this.#blobBytes,
        layersDone: this.#layers.filter(({ digest, size }) => this.#here.get(digest) === size)
          .length,
      });
    else {
      const bytesDone = this.#before + this.#inLayer;
      this.#report({
        phase: "converting",
        bytesDone,
        bytesTotal: this.#layerBytes,
        layersDone: Math.max(this.#layer - 1, 0),
      });
    }
  }
}
