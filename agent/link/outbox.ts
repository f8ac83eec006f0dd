/**
 * The frames on their way up, in order, for one stream. One reader (the stream's
 * writer); push never waits. Bounded: when a slow link lets it fill up, progress
 * and superseded statuses are dropped first, since the newest status of a machine
 * is its whole truth; if it is still full the stream is given up, and the next
 * Hello carries everything.
 */
import { create } from "@bufbuild/protobuf";
import { LIMITS } from "../../lib/limits.ts";
import { type AgentFrame, AgentFrameSchema } from "../../proto/gen/leveret/v1/agent_pb.js";

type Frame = AgentFrame["frame"];

export class Outbox implements AsyncIterable<AgentFrame> {
  #frames: Frame[] = [];
  #wake: (() => void) | null = null;
  #closed = false;
  /** Given to the stream. */
  #sent = 0n;
  readonly #limit: number;
  readonly #onOverflow: () => void;

  constructor(onOverflow: () => void, limit: number = LIMITS.hubQueueFrames) {
    this.#onOverflow = onOverflow;
    this.#limit = limit;
  }

  get length(): number {
    return this.#frames.length;
  }

  push(frame: Frame): void {
    if (this.#closed) return;
    this.#frames.push(frame);
    if (this.#frames.length > this.#limit) this.#compact();
    this.#wake?.();
  }

  close(): void {
    this.#closed = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<AgentFrame> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined) {
        if (frame.case === "heartbeat") frame.value.framesSent = this.#sent;
        this.#sent += 1n;
        yield create(AgentFrameSchema, { frame });
      } else if (this.#closed) return;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }

  #compact(): void {
    const newest = new Set<string>();
    const kept: Frame[] = [];
    for (const frame of this.#frames.toReversed()) {
      if (frame.case === "progress" || frame.case === "heartbeat") continue;
      if (frame.case === "status") {
        if (newest.has(frame.value.machineId)) continue;
        newest.add(frame.value.machineId);
      }
      kept.push(frame);
    }
    this.#frames = kept.toReversed();
    if (this.#frames.length > this.#limit) this.#onOverflow();
  }
}
