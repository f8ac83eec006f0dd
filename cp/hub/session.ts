/**
 * One agent's control stream, from Register to its end.
 *
 *   registered → open (frames in and out) → closed
 *
 * What comes is queued, within a bound, so that a slow database never stops HTTP/2's
 * flow control; one task at a time handles what was queued, one frame after the other,
 * since the order of one host's reports matters. Between frames there is no task and
 * nothing is kept: a hub has thousands of these. Whoever closes it first names the
 * reason; the rest is idempotent. A crash leaves the host `ready` in the database,
 * which the next start corrects.
 */
import { create } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { Backoff } from "../../lib/backoff.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import {
  GoodbyeSchema,
  HubFrameSchema,
  type AgentFrame,
  type Goodbye_Reason,
  type Heartbeat,
  type HubFrame,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { ImageJobId } from "../../proto/ids.ts";
import { fromDatabase } from "../db/index.ts";
import type { Peer } from "../ops/authority.ts";
import type { Deps } from "../ops/deps.ts";
import { storeImages } from "../ops/images.ts";
import { destroyStray } from "../ops/reconcile.ts";
import { storeReport, type Origin } from "../ops/report.ts";
import type { Acks } from "./acks.ts";
import type { Heartbeats } from "./heartbeats.ts";
import type { ProgressBoard } from "./progress.ts";
import type { Results } from "./results.ts";
import { imagesFromWire, reportFromWire, resultFromWire } from "./wire.ts";

type Payload = HubFrame["frame"];

/** Of a stream with a certificate: whose it is, and how it gets the next one. */
export type Identity = {
  peer: Peer;
  /** Of its newest certificate, unix milliseconds. */
  notAfter: number;
  renew(csr: Uint8Array): Promise<{ certificate: Uint8Array; notAfter: Date }>;
};

/** The way to the agent, as its carrier gives it. */
export type Down = {
  /** False when the stream is over, or when the agent has left too much unread. */
  send(frame: HubFrame): boolean;
  /** After what was sent; an error becomes the call's status. Idempotent. */
  end(error?: ConnectError): void;
  /** At once, whatever was sent. */
  abort(): void;
};

type Parts = {
  deps: Deps;
  progress: ProgressBoard;
  heartbeats: Heartbeats;
  acks: Acks;
  results: Results;
};

export class HubSession {
  readonly origin: Origin;
  readonly #parts: Parts;
  readonly #down: Down;
  #in: AgentFrame[] = [];
  /** Storing the inventory, then handling frames; undefined = nothing to do. */
  #task: Promise<void> | undefined;
  #end: AbortController | undefined;
  /** null on a plain link. Set before the session is registered. */
  identity: Identity | null = null;
  #superseded = false;
  #open = false;
  #closed = false;
  /** Frames of this stream; the first one up was Hello. */
  #taken = 1;
  #sent = 0;
  /** What had been sent at some time, to be compared with what has arrived long after. */
  #mark = { sent: 0, atMs: 0 };

  constructor(parts: Parts, origin: Origin, down: Down) {
    this.#parts = parts;
    this.#down = down;
    this.origin = origin;
  }

  get #deps(): Deps {
    return this.#parts.deps;
  }

  /** Aborts when the stream is over. */
  get ended(): AbortSignal {
    this.#end ??= new AbortController();
    if (this.#closed) this.#end.abort();
    return this.#end.signal;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** The inventory is stored: ops may be sent. */
  open(): void {
    this.#open = true;
  }

  get isOpen(): boolean {
    return this.#open && !this.#closed;
  }

  /** True when a newer stream of the same host ended this one. */
  get superseded(): boolean {
    return this.#superseded;
  }

  /** False when it is closed, or when the agent does not read, which ends it. */
  send(frame: Payload): boolean {
    if (this.#closed) return false;
    const message = create(HubFrameSchema, { epoch: BigInt(this.origin.epoch), frame });
    if (this.#down.send(message)) {
      this.#sent += 1;
      return true;
    }
    this.#deps.log.warn(this.origin, "the agent does not read its stream; closing it");
    this.#down.abort();
    this.close();
    return false;
  }

  /** Says why, then ends the stream. */
  goodbye(reason: Goodbye_Reason, message: string, reconnectAfterMs: number): void {
    const value = create(GoodbyeSchema, { reason, message, reconnectAfterMs });
    this.send({ case: "goodbye", value });
    this.close();
  }

  supersede(reason: Goodbye_Reason): void {
    this.#superseded = true;
    this.goodbye(reason, "A newer stream registered this host", 0);
  }

  /** What was taken is still handled; nothing more is. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#down.end();
    this.#end?.abort();
  }

  /** Frames are handled once this work is done. */
  begin(work: Promise<void>): void {
    this.#task = this.#run(work);
  }

  /** Queues what the agent has said. */
  take(frame: AgentFrame): void {
    if (this.#closed) return;
    if (frame.frame.case === "heartbeat" && this.#hasGap(frame.frame.value)) return this.close();
    this.#taken += 1;
    if (frame.frame.case === "heartbeat" && this.#task === undefined) return this.#beat();
    if (this.#in.length >= LIMITS.hubQueueFrames) {
      this.#deps.log.warn(this.origin, "more frames than can be handled; closing the stream");
      return this.close();
    }
    this.#in.push(frame);
    this.#task ??= this.#run();
  }

  /**
   * True when a frame was lost though the stream lives. Nothing else would tell: an op is
   * sent once a stream, and a state that is not reported stays unknown.
   */
  #hasGap({ framesSent, framesReceived }: Heartbeat): boolean {
    // An agent that does not count.
    if (framesSent === 0n) return false;
    const now = this.#deps.clock.now();
    let lost = framesSent > BigInt(this.#taken);
    if (now - this.#mark.atMs >= LIMITS.linkLagMs) {
      lost ||= framesReceived < BigInt(this.#mark.sent);
      this.#mark = { sent: this.#sent, atMs: now };
    }
    if (lost) this.#deps.log.warn(this.origin, "the stream has lost a frame; closing it");
    return lost;
  }

  /** Resolves when all that was taken is handled. */
  async settled(): Promise<void> {
    await this.#task;
  }

  async #run(before?: Promise<void>): Promise<void> {
    await before;
    for (let frame = this.#in.shift(); frame !== undefined; frame = this.#in.shift())
      if (!(await this.#handleOrRetry(frame))) this.#in = [];
    // In the same breath as the last look: what comes from now on needs a task of its own.
    this.#task = undefined;
  }

  /** A database that is away is waited for: the link and the machines are well. */
  async #handleOrRetry(frame: AgentFrame): Promise<boolean> {
    const backoff = new Backoff({ baseMs: 100, capMs: 2_000 });
    for (;;) {
      try {
        await this.#handle(frame);
        return true;
      } catch (error) {
        const { reason, retryable } = LvError.from(fromDatabase(error));
        if (retryable && !this.closed) {
          this.#deps.log.warn({ ...this.origin, reason }, "cannot store a frame yet");
          await this.#deps.clock.sleep(backoff.next(), this.ended).catch(() => undefined);
          continue;
        }
        // A report that could not be stored comes again after a reconnect; going on
        // would acknowledge later ones and lose this one.
        this.#deps.log.error({ ...this.origin, err: error }, "cannot store a frame; closing");
        this.close();
        return false;
      }
    }
  }

  async #handle(message: AgentFrame): Promise<void> {
    const { log } = this.#deps;
    const { frame } = message;
    switch (frame.case) {
      case "heartbeat":
        return this.#beat();
      case "ack":
        this.#parts.acks.note(frame.value.opId, this);
        return;
      case "status": {
        const report = reportFromWire(frame.value);
        const { machineId } = frame.value;
        const outcome = await storeReport(this.#deps, this.origin, machineId, report);
        if (outcome === "fenced") this.close();
        if (outcome === "stray") await destroyStray(this.#deps, this.origin, machineId, report);
        this.#parts.progress.settle(machineId, report.state);
        return;
      }
      case "result":
        if (!(await this.#parts.results.store(this.origin, resultFromWire(frame.value)))) {
          this.close();
          return;
        }
        this.#parts.acks.forget(frame.value.opId, this);
        if (ImageJobId.is(frame.value.machineId))
          this.#parts.progress.forget(frame.value.machineId);
        this.send({
          case: "resultAck",
          value: { $typeName: "leveret.v1.ResultAck", opId: frame.value.opId },
        });
        return;
      case "progress":
        this.#parts.progress.put(frame.value);
        return;
      case "images":
        await storeImages(this.#deps, this.origin, imagesFromWire(frame.value));
        return;
      case "certificateRequest":
        return this.#renew(frame.value.csr);
      case "hello":
        log.warn(this.origin, "a second Hello; closing the stream");
        this.close();
        return;
      case undefined:
        // A frame of a newer agent: skipped, so that it can be added without a break.
        return;
      default: {
        const rest: never = frame;
        return rest;
      }
    }
  }

  #beat(): void {
    this.#parts.heartbeats.note(this);
    if (this.#expired()) this.close();
  }

  /** A stream may not outlive the certificates that it was opened or renewed with. */
  #expired(): boolean {
    if (this.identity === null || this.#deps.clock.now() < this.identity.notAfter) return false;
    this.#deps.log.warn(this.origin, "the host's certificate has expired; closing the stream");
    return true;
  }

  /** A request that is refused is not answered: the certificate goes on until its end. */
  async #renew(csr: Uint8Array): Promise<void> {
    try {
      if (this.identity === null) return;
      const { certificate, notAfter } = await this.identity.renew(csr);
      this.identity.notAfter = notAfter.getTime();
      this.send({
        case: "certificate",
        value: { $typeName: "leveret.v1.CertificateIssued", certificate },
      });
    } catch (error) {
      const { reason, message } = LvError.from(error);
      if (reason !== "BAD_REQUEST" && reason !== "PERMISSION_DENIED") throw error;
      this.#deps.log.warn({ ...this.origin, reason, detail: message }, "certificate not renewed");
    }
  }
}
