/**
 * Keeps a build's memory flat. Chunks of bodies and of decompressors lie outside the JavaScript
 * heap, where the collector does not see them pile up: at hundreds of megabytes a second it
 * comes too late. So it is called by the bytes that went by.
 */
const STEP_BYTES = 8 << 20;

export class Garbage {
  #bytes = 0;

  made(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < STEP_BYTES) return;
    this.#bytes = 0;
    Bun.gc(true);
  }
}
