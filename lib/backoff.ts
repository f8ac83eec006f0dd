/** Exponential backoff with full jitter: each delay is uniform in [0, min(cap, base · 2^n)]. */
export type BackoffOptions = { baseMs: number; capMs: number; random?: () => number };

export class Backoff {
  #attempt = 0;
  readonly #options: BackoffOptions;
  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** The next delay in milliseconds. */
  next(): number {
    const { baseMs, capMs, random = Math.random } = this.#options;
    const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(this.#attempt, 30));
    this.#attempt += 1;
    return Math.round(random() * ceiling);
  }

  /** After a success the next delay starts from the base again. */
  reset(): void {
    this.#attempt = 0;
  }
}
