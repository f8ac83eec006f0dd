/** Token buckets by key: `perSecond` on average, `burst` at once. In memory, bounded. */

/** Buckets that are full again hold nothing worth keeping; they go first. */
const MAX_KEYS = 10_000;

export class TokenBuckets {
  readonly #buckets = new Map<string, { level: number; at: number }>();
  readonly #perSecond: number;
  readonly #burst: number;

  constructor(perSecond: number, burst: number) {
    this.#perSecond = perSecond;
    this.#burst = burst;
  }

  /** 0 when the request may pass, else the milliseconds until the next one may. */
  take(key: string, nowMs: number): number {
    const bucket = this.#buckets.get(key) ?? { level: this.#burst, at: nowMs };
    const refill = (Math.max(0, nowMs - bucket.at) / 1000) * this.#perSecond;
    const level = Math.min(this.#burst, bucket.level + refill);
    const taken = level >= 1;
    this.#buckets.delete(key);
    this.#buckets.set(key, { level: taken ? level - 1 : level, at: nowMs });
    const oldest = this.#buckets.size > MAX_KEYS ? this.#buckets.keys().next() : undefined;
    if (oldest?.done === false) this.#buckets.delete(oldest.value);
    return taken ? 0 : Math.max(1, Math.round(((1 - level) / this.#perSecond) * 1000));
  }
}
