/**
 * HTTP/2 PING to every connection in turn: one timer for all, and a part of them at
 * each tick, so that thousands are never asked in the same moment. A connection that
 * has not answered by its next turn is destroyed, which ends its calls.
 */
import type { ServerHttp2Session } from "node:http2";

const PARTS = 20;

class Pinged {
  readonly session: ServerHttp2Session;
  readonly answered = (): void => void (this.waits = false);
  waits = false;

  constructor(session: ServerHttp2Session) {
    this.session = session;
  }
}

export class Pings implements Disposable {
  readonly #parts = Array.from({ length: PARTS }, () => new Set<Pinged>());
  readonly #timer: ReturnType<typeof setInterval>;
  #turn = 0;
  #next = 0;

  constructor(intervalMs: number) {
    this.#timer = setInterval(() => this.#ping(), intervalMs / PARTS);
  }

  /** Returns the way to forget it. */
  add(session: ServerHttp2Session): () => void {
    const pinged = new Pinged(session);
    const part = this.#parts[this.#next];
    this.#next = (this.#next + 1) % PARTS;
    part?.add(pinged);
    return () => part?.delete(pinged);
  }

  *sessions(): Generator<ServerHttp2Session> {
    for (const part of this.#parts) for (const { session } of part) yield session;
  }

  #ping(): void {
    this.#turn = (this.#turn + 1) % PARTS;
    for (const one of this.#parts[this.#turn] ?? []) {
      if (one.waits || one.session.destroyed) one.session.destroy();
      else {
        one.waits = true;
        one.session.ping(one.answered);
      }
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
