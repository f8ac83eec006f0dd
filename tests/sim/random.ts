/** Everything random in a run comes from its seed, what the product draws included. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (seed ^ 0x9e3779b9) >>> 0;
  }

  /** mulberry32: [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  /** A whole number in [low, high]. */
  between(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  pick<T>(items: readonly T[]): T {
    const item = items[Math.floor(this.next() * items.length)];
    if (item === undefined) throw new Error("Nothing to pick from");
    return item;
  }
}

/** Replaces the process's sources of randomness until it is disposed of. */
export function seedProcess(seed: number): Disposable {
  const random = new Random(seed ^ 0x51ed270b);
  const { random: mathRandom } = Math;
  const fill = crypto.getRandomValues.bind(crypto);
  Math.random = () => random.next();
  const seeded = (array: ArrayBufferView): ArrayBufferView => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = random.between(0, 255);
    return array;
  };
  Object.defineProperty(crypto, "getRandomValues", { value: seeded, configurable: true });
  return {
    [Symbol.dispose]: () => {
      Math.random = mathRandom;
      Object.defineProperty(crypto, "getRandomValues", { value: fill, configurable: true });
    },
  };
}
