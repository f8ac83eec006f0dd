/** How fast a pull is: the bytes of the last seconds, begun anew with each phase. */
import type { ImagePhase, ImageProgress } from "./types.ts";

const WINDOW_MS = 5_000;

export class Rate {
  #phase: ImagePhase | null = null;
  #seen: { atMs: number; bytes: number }[] = [];

  /** Bytes per second, 0 while it cannot be said. */
  add({ phase, bytesDone }: ImageProgress, nowMs: number): number {
    if (phase !== this.#phase) this.#seen = [];
    this.#phase = phase;
    if (phase !== "pulling" && phase !== "converting") return 0;
    this.#seen.push({ atMs: nowMs, bytes: bytesDone });
    // One sample from before the window stays, so that the window is always covered.
    while ((this.#seen[1]?.atMs ?? Infinity) <= nowMs - WINDOW_MS) this.#seen.shift();
    const [first] = this.#seen;
    if (first === undefined || nowMs <= first.atMs) return 0;
    return Math.max(0, Math.round(((bytesDone - first.bytes) * 1_000) / (nowMs - first.atMs)));
  }
}
