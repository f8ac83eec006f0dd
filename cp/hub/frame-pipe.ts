/**
 * SessionFrames both ways between two replicas, over one WebSocket; the same at both ends.
 * A WebSocket is full duplex and keeps messages apart, but what comes is not held up by a
 * reader that does not read: so each end says what it has read, and the other never has
 * more than WINDOW_BYTES on the way. Binary messages are frames; text is the pipe's own.
 *
 *   open ── end() ─► our half is over ── the peer's end is read ─► close()
 *     └─ close(), closed(), silence, a breach of these rules ─► every wait throws
 *
 * Both ends beat, so that a replica that is gone without a word is noticed. Everything
 * runs on the loop; one reader and one writer.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { z } from "zod";
import { LIMITS } from "../../lib/limits.ts";
import { LvError, isReason } from "../../proto/errors.ts";
import { SessionFrameSchema, type SessionFrame } from "../../proto/gen/leveret/v1/agent_pb.js";

/** What a frame counts beside its bytes, so that small ones are bounded in number too. */
const FRAME_COST = 256;
const WORD_BYTES = 32 << 10;
const MESSAGE_LENGTH = 4_096;

/** {} is a beat; `took`: so much was read; `end`: no more frames come, and why. */
const Word = z.object({
  took: z.number().int().min(0).optional(),
  end: z.object({ reason: z.string(), message: z.string() }).optional(),
});

/** The WebSocket. What it is given goes in this order, or `closed` is called. */
export type Carrier = {
  send(message: string | Uint8Array<ArrayBuffer>): void;
  /** At once; idempotent. */
  close(): void;
};

type Periods = { beatMs: number; silenceMs: number };

export class FramePipe {
  readonly #carrier: Carrier;
  readonly #over = new AbortController();
  readonly #unread: { frame: SessionFrame; cost: number }[] = [];
  readonly #silenceMs: number;
  readonly #beat: ReturnType<typeof setInterval>;
  #unreadCost = 0;
  /** Read, and not said yet. */
  #took = 0;
  /** Sent, and not read at the other end. */
  #underWay = 0;
  #ended = false;
  #peerEnd: { reason: string; message: string } | null = null;
  #failure: LvError | null = null;
  #heardAt = performance.now();
  #wakeReader: () => void = () => undefined;
  #wakeWriter: () => void = () => undefined;

  constructor(carrier: Carrier, periods: Partial<Periods> = {}) {
    this.#carrier = carrier;
    this.#silenceMs = periods.silenceMs ?? LIMITS.pipeSilenceMs;
    this.#beat = setInterval(() => this.#check(), periods.beatMs ?? LIMITS.pipeBeatMs);
  }

  /** Aborts when nothing goes any more, in either direction. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** Waits until the other end has room. Throws what ended the pipe. */
  async send(frame: SessionFrame): Promise<void> {
    const bytes = toBinary(SessionFrameSchema, frame);
    const cost = bytes.length + FRAME_COST;
    while (this.#failure === null && !fits(this.#underWay, cost))
      await new Promise<void>((resolve) => (this.#wakeWriter = resolve));
    if (this.#failure !== null) throw this.#failure;
    this.#underWay += cost;
    this.#carrier.send(bytes);
  }

  /** No more frames go; what was sent is still read. Idempotent. */
  end(error?: LvError): void {
    if (this.#ended || this.#failure !== null) return;
    this.#ended = true;
    const end = { reason: error?.reason ?? "", message: clip(error?.message ?? "") };
    this.#say({ end });
  }

  /** Both halves, at once. Idempotent: the first reason counts. */
  close(failure: LvError): void {
    if (this.#failure !== null) return;
    this.#failure = failure;
    clearInterval(this.#beat);
    this.#wakeReader();
    this.#wakeWriter();
    this.#over.abort();
    this.#carrier.close();
  }

  /** Ends after the peer's end(), throws its error or what ended the pipe. */
  async *frames(): AsyncGenerator<SessionFrame> {
    for (;;) {
      const next = this.#unread.shift();
      if (next !== undefined) {
        yield next.frame;
        // Only now: the reader has come back for more.
        this.#read(next.cost);
      } else if (this.#peerEnd !== null) {
        const { reason, message } = this.#peerEnd;
        if (reason === "") return;
        throw new LvError(isReason(reason) ? reason : "INTERNAL", message);
      } else if (this.#failure !== null) throw this.#failure;
      else await new Promise<void>((resolve) => (this.#wakeReader = resolve));
    }
  }

  /** By the carrier, for each message. */
  received(message: string | Uint8Array): void {
    if (this.#failure !== null) return;
    this.#heardAt = performance.now();
    try {
      if (typeof message === "string") this.#hear(message);
      else this.#take(message);
    } catch (cause) {
      this.close(broken("The other replica breaks the rules of the session", cause));
    }
  }

  /** By the carrier, when it is gone. */
  closed(): void {
    this.close(broken("The other replica broke off"));
  }

  #hear(text: string): void {
    if (text.length > WORD_BYTES) throw new Error(`a word of ${text.length} characters`);
    const { took, end } = Word.parse(JSON.parse(text));
    if (took !== undefined) {
      this.#underWay -= took;
      if (this.#underWay < 0) throw new Error("more was read than was sent");
      this.#wakeWriter();
    }
    if (end !== undefined) {
      this.#peerEnd = end;
      this.#wakeReader();
    }
  }

  #take(bytes: Uint8Array): void {
    const cost = bytes.length + FRAME_COST;
    if (bytes.length > LIMITS.frameBytes) throw new Error(`a frame of ${bytes.length} bytes`);
    if (this.#peerEnd !== null) throw new Error("a frame after the end");
    if (!fits(this.#unreadCost, cost)) throw new Error("more frames than there is room for");
    this.#unreadCost += cost;
    this.#unread.push({ frame: fromBinary(SessionFrameSchema, bytes), cost });
    this.#wakeReader();
  }

  #read(cost: number): void {
    this.#unreadCost -= cost;
    this.#took += cost;
    // When nothing is left it is said too: the writer may wait to send one large frame.
    if (this.#took < LIMITS.pipeWindowBytes / 2 && this.#unreadCost > 0) return;
    this.#say({ took: this.#took });
    this.#took = 0;
  }

  #check(): void {
    if (performance.now() - this.#heardAt > this.#silenceMs)
      this.close(broken(`The other replica was silent for ${this.#silenceMs / 1000} s`));
    else this.#say({});
  }

  #say(word: z.infer<typeof Word>): void {
    if (this.#failure === null) this.#carrier.send(JSON.stringify(word));
  }
}

/** A frame larger than the window goes alone. */
function fits(present: number, cost: number): boolean {
  return present === 0 || present + cost <= LIMITS.pipeWindowBytes;
}

function clip(text: string): string {
  return text.slice(0, MESSAGE_LENGTH);
}

function broken(message: string, cause?: unknown): LvError {
  return new LvError("LINK_LOST", message, { cause });
}
