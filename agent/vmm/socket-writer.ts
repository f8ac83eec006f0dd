/**
 * Writes to a Bun socket keep what did not fit and go on when it drains. Bounded:
 * a peer that does not read is cut off by the caller, not waited for.
 */
type Sink = { write(data: Uint8Array): number };

export class SocketWriter {
  readonly #sink: Sink;
  readonly #limitBytes: number;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;

  constructor(sink: Sink, limitBytes: number) {
    this.#sink = sink;
    this.#limitBytes = limitBytes;
  }

  get idle(): boolean {
    return this.#pendingBytes === 0;
  }

  /** False when more than the limit would wait: nothing of `data` was taken then. */
  send(data: Uint8Array): boolean {
    if (this.#pendingBytes + data.length > this.#limitBytes) return false;
    this.#pending.push(data);
    this.#pendingBytes += data.length;
    this.flush();
    return true;
  }

  /** The socket's drain handler. */
  flush(): void {
    for (let first = this.#pending[0]; first !== undefined; first = this.#pending[0]) {
      // Negative once the socket is closed: what waits is lost with it.
      const written = Math.max(0, this.#sink.write(first));
      this.#pendingBytes -= written;
      if (written < first.length) {
        this.#pending[0] = first.subarray(written);
        return;
      }
      this.#pending.shift();
    }
  }
}
