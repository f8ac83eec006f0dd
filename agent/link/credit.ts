/**
 * How much of a session's data may be sent before its reader has taken what came
 * before. HTTP/2 has windows of its own, but buffers on both sides lie outside of them.
 * The hub grants with OpenSession and goes on granting as it reads; a hub that grants
 * nothing at the beginning is one that does not know credits, and is not waited for.
 */
export class Credit {
  readonly #unlimited: boolean;
  #left: number;
  #wake: (() => void) | null = null;

  constructor(initialBytes: bigint) {
    this.#unlimited = initialBytes === 0n;
    this.#left = Number(initialBytes);
  }

  add(bytes: bigint): void {
    this.#left += Number(bytes);
    this.#wake?.();
  }

  /**
   * Waits until anything is left and takes the bytes, which may be more than that: a
   * piece is not cut. One caller at a time. Returns early when the signal aborts.
   */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    while (!this.#unlimited && this.#left <= 0 && !signal.aborted)
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          signal.removeEventListener("abort", wake);
          this.#wake = null;
          resolve();
        };
        this.#wake = wake;
        signal.addEventListener("abort", wake, { once: true });
      });
    this.#left -= bytes;
  }
}
