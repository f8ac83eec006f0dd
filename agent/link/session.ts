/**
 * One control stream, from Hello to its end.
 *
 *   Hello ─► Welcome ─► { Op → Ack … Result → ResultAck | OpenSession | Goodbye }
 *
 * The read side never waits for work: an op is journalled, acknowledged and queued;
 * a session runs beside the stream. Downward frames carry the epoch; one that is
 * smaller than the largest seen comes from a control plane that was replaced, and is
 * refused. Results that were not acknowledged are sent again after every Welcome.
 */
import { create } from "@bufbuild/protobuf";
import { abortReason } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import {
  AckSchema,
  type Goodbye,
  type HubFrame,
  type Op,
  ResultSchema,
  type Welcome,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import type { AgentContext } from "../context.ts";
import { SessionRunner } from "./handlers/open-session.ts";
import { imageInventory } from "../runtime/image-jobs.ts";
import { heartbeat, hello } from "./hello.ts";
import { Outbox } from "./outbox.ts";
import { dial } from "./transport.ts";

/** Shared by all streams of an agent. */
export type LinkState = { epoch: bigint };

export type StreamEnd = { welcomed: boolean; goodbye: Goodbye | null };

export class ControlSession {
  readonly #context: AgentContext;
  readonly #state: LinkState;
  readonly #controller = new AbortController();
  readonly #outbox: Outbox;
  readonly #sessions: SessionRunner;
  #welcomed = false;
  #renewalAsked = false;
  /** `Images.changes` when they were told last. */
  #imagesTold = -1;
  #tellingImages = false;
  #goodbye: Goodbye | null = null;
  /** Frames that came down. */
  #received = 0n;

  constructor(context: AgentContext, state: LinkState) {
    this.#context = context;
    this.#state = state;
    this.#sessions = new SessionRunner(context);
    this.#outbox = new Outbox(() => {
      context.log.warn("the control stream does not take frames: giving it up");
      this.#controller.abort(new LvError("LINK_LOST", "The control stream is stuck"));
    });
  }

  get welcomed(): boolean {
    return this.#welcomed;
  }

  /** Returns when the stream has ended; rejects when it broke or the signal fired. */
  async run(signal: AbortSignal): Promise<StreamEnd> {
    using link = (this.#context.dial ?? dial)(
      this.#context.config,
      this.#context.identity?.credentials ?? null,
    );
    const ends = AbortSignal.any([signal, this.#controller.signal]);
    const { fleet } = this.#context;
    const unlisten = fleet.listen((event) => this.#outbox.push(event));
    this.#outbox.push({ case: "hello", value: hello(this.#context) });
    try {
      for await (const frame of link.client.connect(this.#outbox, { signal: ends })) {
        this.#received += 1n;
        this.#receive(frame, ends);
        if (this.#goodbye !== null) break;
      }
      return { welcomed: this.#welcomed, goodbye: this.#goodbye };
    } catch (error) {
      if (ends.aborted) throw abortReason(ends);
      throw error;
    } finally {
      unlisten();
      this.#outbox.close();
      // Leaving the loop does not cancel the call, and its sessions end with it.
      this.#controller.abort(new LvError("LINK_LOST", "The control stream has ended"));
    }
  }

  #receive(hub: HubFrame, ends: AbortSignal): void {
    const { frame, epoch } = hub;
    const { log, fleet } = this.#context;
    if (epoch < this.#state.epoch) {
      log.warn({ epoch, newest: this.#state.epoch, frame: frame.case }, "refused a stale frame");
      if (frame.case === "welcome")
        throw new LvError("LINK_LOST", "The control plane's epoch went backwards: stale or reset");
      return;
    }
    this.#state.epoch = epoch;
    switch (frame.case) {
      case "welcome":
        return this.#welcome(frame.value, ends);
      case "op":
        return this.#op(frame.value);
      case "resultAck":
        return fleet.acknowledge(frame.value.opId);
      case "openSession":
        return this.#sessions.open(frame.value, epoch, ends);
      case "goodbye":
        this.#goodbye = frame.value;
        return;
      case "certificate":
        return this.#context.identity?.renewed(frame.value.certificate);
      case undefined:
        log.warn("the control plane sent a frame this agent does not know");
        return;
      default: {
        const rest: never = frame;
        return rest;
      }
    }
  }

  #welcome(welcome: Welcome, ends: AbortSignal): void {
    const { fleet, log, config } = this.#context;
    if (this.#welcomed) return;
    this.#welcomed = true;
    log.info(
      { addr: config.controlPlaneAddr, epoch: this.#state.epoch, replica: welcome.replicaId },
      "connected to the control plane",
    );
    void this.#tellImages();
    for (const value of fleet.unackedResults()) this.#outbox.push({ case: "result", value });
    void this.#beat(Math.max(welcome.heartbeatIntervalMs, 100), ends);
  }

  /** Ends with the stream; never rejects. */
  async #beat(intervalMs: number, ends: AbortSignal): Promise<void> {
    const { clock, fleet } = this.#context;
    for (let sequence = 1n; !ends.aborted; sequence += 1n) {
      const due = await clock.sleep(intervalMs, ends).then(
        () => true,
        () => false,
      );
      if (!due) return;
      this.#outbox.push({
        case: "heartbeat",
        value: heartbeat(this.#context, sequence, this.#received),
      });
      // Not awaited: the image worker may be busy, and the heart must not stand still for it.
      if (fleet.images.changes !== this.#imagesTold) void this.#tellImages();
      await this.#renew();
    }
  }

  /** Never rejects: what is not told now is told with a later heartbeat. */
  async #tellImages(): Promise<void> {
    const { images } = this.#context.fleet;
    const { changes } = images;
    if (this.#tellingImages) return;
    this.#tellingImages = true;
    try {
      this.#outbox.push({ case: "images", value: await imageInventory(images) });
      this.#imagesTold = changes;
    } catch (error) {
      this.#context.log.debug({ err: error }, "the images cannot be listed");
    } finally {
      this.#tellingImages = false;
    }
  }

  /** Once a stream: what is refused now is not granted five seconds later. */
  async #renew(): Promise<void> {
    const { identity } = this.#context;
    if (identity?.renewalDue !== true || this.#renewalAsked) return;
    this.#renewalAsked = true;
    const csr = await identity.request();
    this.#outbox.push({
      case: "certificateRequest",
      value: { $typeName: "leveret.v1.CertificateRequest", csr },
    });
  }

  #op(op: Op): void {
    const { fleet, log } = this.#context;
    try {
      const { journalled, result } = fleet.receive(op);
      if (!journalled) return;
      this.#outbox.push({ case: "ack", value: create(AckSchema, { opId: op.opId }) });
      if (result !== null) this.#outbox.push({ case: "result", value: result });
    } catch (error) {
      // Not journalled: no Ack, but an answer, so that it is not sent for ever.
      const { reason, message } = LvError.from(error);
      log.error({ err: error, opId: op.opId }, "refused an operation");
      const { opId, machineId } = op;
      const value = create(ResultSchema, {
        opId,
        machineId,
        errorReason: reason,
        errorMessage: message,
      });
      this.#outbox.push({ case: "result", value });
    }
  }
}
