/**
 * Guest RAM by guest-physical address, for the time before the first instruction
 * and for plain data. Bounds are checked here and again by the engine; what other
 * threads write at the same time (rings) is not this class's business.
 */
export type MemoryWindow = { gpa: number; len: number; view: ArrayBuffer };

export class GuestMemory {
  readonly #windows: readonly MemoryWindow[];

  /** Windows in order of gpa, as Vm.regions gives them. */
  constructor(windows: readonly MemoryWindow[]) {
    this.#windows = windows;
  }

  /**
   * The bytes at gpa, in one or more pieces where windows meet. Throws RangeError
   * when a part of it is not RAM.
   */
  pieces(gpa: number, bytes: number): Uint8Array[] {
    const found: Uint8Array[] = [];
    let at = gpa;
    const end = gpa + bytes;
    for (const window of this.#windows) {
      const offset = at - window.gpa;
      if (at >= end || offset < 0 || offset >= window.len) continue;
      const length = Math.min(end - at, window.len - offset);
      found.push(new Uint8Array(window.view, offset, length));
      at += length;
    }
    if (at < end)
      throw new RangeError(`0x${gpa.toString(16)} + ${bytes} bytes is not guest memory`);
    return found;
  }

  write(gpa: number, data: Uint8Array): void {
    let at = 0;
    for (const piece of this.pieces(gpa, data.length)) {
      piece.set(data.subarray(at, at + piece.length));
      at += piece.length;
    }
  }

  /** True when every byte is RAM. */
  contains(gpa: number, bytes: number): boolean {
    if (gpa < 0 || bytes < 0 || !Number.isSafeInteger(gpa + bytes)) return false;
    let at = gpa;
    for (const window of this.#windows)
      if (at >= window.gpa && at < window.gpa + window.len)
        at = Math.min(gpa + bytes, window.gpa + window.len);
    return at === gpa + bytes;
  }
}
