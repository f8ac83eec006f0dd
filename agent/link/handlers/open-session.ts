/**
 * OpenSession: dials Attach on a connection of its own and serves what was asked
 * for. A session lives as long as the control stream that asked; a slow reader holds
 * up nobody else. Sessions are bounded in number.
 */
import { create } from "@bufbuild/protobuf";
import { LvError } from "../../../proto/errors.ts";
import {
  type OpenSession,
  type SessionFrame,
  SessionFrameSchema,
} from "../../../proto/gen/leveret/v1/agent_pb.js";
import type { AgentContext } from "../../context.ts";
import { Credit } from "../credit.ts";
import { Intake, loadFrames } from "../load-session.ts";
import { logFrames } from "../log-session.ts";
import { machineMetrics } from "../metrics-session.ts";
import { dial } from "../transport.ts";

const MAX_SESSIONS = 256;

/** What came down: leave to send, and data. */
type Down = { credit: Credit; intake: Intake };

const frameOf = (frame: SessionFrame["frame"]): SessionFrame =>
  create(SessionFrameSchema, { frame });

export class SessionRunner {
  readonly #context: AgentContext;
  #open = 0;

  constructor(context: AgentContext) {
    this.#context = context;
  }

  /** Returns at once. */
  open(request: OpenSession, epoch: bigint, signal: AbortSignal): void {
    void this.#run(request, epoch, signal).catch((error: unknown) => {
      if (signal.aborted) return;
      const { reason, message } = LvError.from(error);
      this.#context.log.warn(
        { sessionId: request.sessionId, reason, detail: message },
        "session broke",
      );
    });
  }

  async #run(request: OpenSession, epoch: bigint, outer: AbortSignal): Promise<void> {
    using link = (this.#context.dial ?? dial)(
      this.#context.config,
      this.#context.identity?.credentials ?? null,
    );
    const controller = new AbortController();
    const signal = AbortSignal.any([outer, controller.signal]);
    this.#open += 1;
    try {
      const credit = new Credit(request.creditBytes);
      const intake = new Intake();
      const left = (): void => intake.fail(new LvError("CANCELLED", "The sender went away"));
      signal.addEventListener("abort", left, { once: true });
      const frames = this.#frames(request, epoch, { credit, intake }, signal);
      // The hub's end or its failure ends ours.
      for await (const { frame } of link.client.attach(frames, { signal })) {
        if (frame.case === "credit") credit.add(frame.value.bytes);
        if (frame.case === "data") intake.push(frame.value);
        if (frame.case === "dataEnd") intake.end();
      }
    } finally {
      this.#open -= 1;
      controller.abort();
    }
  }

  async *#frames(
    request: OpenSession,
    epoch: bigint,
    down: Down,
    signal: AbortSignal,
  ): AsyncGenerator<SessionFrame> {
    const { hostId } = this.#context;
    const { sessionId, machineId } = request;
    yield frameOf({
      case: "open",
      value: { $typeName: "leveret.v1.SessionOpen", sessionId, hostId, epoch },
    });
    let failure: LvError | null = null;
    try {
      if (this.#open > MAX_SESSIONS)
        throw new LvError("LIMIT_EXCEEDED", `This host serves ${MAX_SESSIONS} sessions already`);
      for await (const frame of this.#serve(request, down, signal)) yield frameOf(frame);
    } catch (error) {
      if (signal.aborted) return;
      failure = LvError.from(error);
      if (failure.reason === "INTERNAL")
        this.#context.log.error({ err: error, machineId, sessionId }, "session failed");
    }
    const errorReason = failure?.reason ?? "";
    const errorMessage = failure?.message ?? "";
    yield frameOf({
      case: "end",
      value: { $typeName: "leveret.v1.SessionEnd", errorReason, errorMessage },
    });
  }

  async *#serve(
    { machineId, kind }: OpenSession,
    { credit, intake }: Down,
    signal: AbortSignal,
  ): AsyncGenerator<SessionFrame["frame"]> {
    const { fleet, config, clock } = this.#context;
    switch (kind.case) {
      case "logs":
        for await (const value of logFrames(fleet, machineId, kind.value, signal)) {
          await credit.take(value.data.length, signal);
          yield { case: "log", value };
        }
        return;
      case "load":
        yield* loadFrames(fleet, config.dir, kind.value.tag, intake);
        return;
      case "metrics": {
        const value = await machineMetrics(fleet, machineId, clock.now());
        yield { case: "metrics", value };
        return;
      }
      case undefined:
        throw new LvError("UNIMPLEMENTED", "This agent does not know that kind of session");
      default: {
        const rest: never = kind;
        return rest;
      }
    }
  }
}
