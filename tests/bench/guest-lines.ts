/** What a guest says on its serial port, which its VMM writes into a FIFO of ours. */
import { closeSync, constants, openSync, read, writeSync } from "node:fs";
import type { BootInput } from "./boot-sides.ts";

/** Both ends, so that opening waits for nobody and nobody's end is the FIFO's. */
export class GuestLines implements Disposable {
  readonly #fd: number;
  /** Without its end: what came after the last line. */
  #rest = "";

  /** Throws when there is something at that path. */
  constructor(path: string) {
    if (Bun.spawnSync(["mkfifo", path]).exitCode !== 0) throw new Error(`Cannot make ${path}`);
    this.#fd = openSync(path, constants.O_RDWR);
  }

  /**
   * Lines as they come. Throws when its VMM has exited, its time is over or the signal aborts.
   * Reads in a thread of the pool: whoever polled would take a processor from the guest.
   */
  async *of(
    { exited }: { exited: Promise<unknown> },
    { timeoutMs, signal }: BootInput,
  ): AsyncGenerator<string> {
    const buffer = Buffer.alloc(64 << 10);
    let isRead = true;
    const end = (): void => {
      if (isRead) writeSync(this.#fd, `\n${OVER}\n`);
    };
    const timer = setTimeout(end, timeoutMs);
    signal.addEventListener("abort", end);
    void exited.then(end);
    try {
      for (;;) {
        const lines = `${this.#rest}${await this.#read(buffer)}`.split("\n");
        this.#rest = lines.pop() ?? "";
        for (const line of lines) {
          if (line === OVER) throw new Error("The guest did not come to its end");
          yield line.trim();
        }
      }
    } finally {
      isRead = false;
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
  }

  #read(buffer: Buffer): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    read(this.#fd, buffer, 0, buffer.length, null, (error, got) =>
      error === null ? resolve(buffer.toString("utf8", 0, got)) : reject(error),
    );
    return promise;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** Our own word into the FIFO, to wake the reader for the last time. */
const OVER = "leveret bench: over";
