/**
 * Pairs OpenSession with the Attach call that answers it.
 *
 *   open(): id → frame down → waiting ──Attach with the id──→ joined → ended
 *                                └─ timeout, link lost, caller gone ─→ ended
 *
 * The Attach handler belongs to the agent's call and lives until the session has
 * ended; pieces are pulled through it one at a time and the agent is granted as many
 * bytes more as were read, so that a slow reader of the REST side slows that one
 * HTTP/2 connection and nothing else.
 */
import { create } from "@bufbuild/protobuf";
import { LIMITS } from "../../lib/limits.ts";
import { LvError, isReason } from "../../proto/errors.ts";
import {
  SessionFrameSchema,
  type OpenSession,
  type SessionEnd,
  type SessionFrame,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { SessionId } from "../../proto/ids.ts";
import type { LogPiece, LogSource } from "../ops/follow-logs.ts";
import type { MetricsSource, Reading } from "../ops/machine-metrics.ts";
import { readingFromWire } from "./metrics-wire.ts";
import { Queue } from "./queue.ts";
import type { Registry } from "./registry.ts";
import type { HubSession } from "./session.ts";
import { pieceFromWire } from "./wire.ts";

export type Joined = {
  frames: AsyncIterator<SessionFrame>;
  /** False when the frame was not taken: the session has ended, or the agent does not read. */
  send: (frame: SessionFrame["frame"]) => boolean;
  release: () => void;
};
/** Frames on their way down: credit, or data up to the agent's credit. */
const OUT_MAX = 64;

type Request = Pick<OpenSession, "machineId" | "creditBytes" | "kind">;

type Waiting = { session: HubSession; join: (joined: Joined) => void };

/** An Attach call from its second frame on. */
export type Opened = {
  sessionId: string;
  /** Of the connection's certificate; on a plain link, whatever the call says. */
  hostId: string;
  epoch: bigint;
  frames: AsyncIterator<SessionFrame>;
};

/** `caller`: the host of the connection's certificate; undefined on a plain link. */
export async function readOpen(
  call: AsyncIterable<SessionFrame>,
  caller: string | undefined,
): Promise<Opened> {
  const frames = call[Symbol.asyncIterator]();
  const first = await frames.next();
  const open = first.done === true ? undefined : first.value.frame;
  if (open?.case !== "open")
    throw new LvError("BAD_REQUEST", "The first frame of Attach must be SessionOpen");
  const { sessionId, epoch, hostId } = open.value;
  return { sessionId, hostId: caller ?? hostId, epoch, frames };
}

export class Attachments implements LogSource, MetricsSource {
  readonly #registry: Registry;
  readonly #waiting = new Map<string, Waiting>();
  readonly #timeoutMs: number;

  constructor(registry: Registry, timeoutMs: number = LIMITS.sessionOpenTimeoutMs) {
    this.#registry = registry;
    this.#timeoutMs = timeoutMs;
  }

  async *openLogs(
    hostId: string,
    request: { machineId: string; after: number; follow: boolean },
    signal: AbortSignal,
  ): AsyncGenerator<LogPiece> {
    const { machineId, after, follow } = request;
    const kind = {
      case: "logs",
      value: {
        $typeName: "leveret.v1.LogSession",
        afterSequence: BigInt(after),
        follow,
      },
    } as const;
    const creditBytes = BigInt(LIMITS.sessionCreditBytes);
    const joined = await this.join(hostId, { machineId, creditBytes, kind }, signal);
    let abandon: (error: LvError) => void = () => undefined;
    const onAbort = (): void => {
      joined.release();
      abandon(cancelled());
    };
    signal.addEventListener("abort", onAbort, { once: true });
    let taken = 0;
    try {
      for (;;) {
        // Not Promise.race with one long-lived promise: that keeps a reaction per frame.
        const next = await new Promise<IteratorResult<SessionFrame>>((resolve, reject) => {
          abandon = reject;
          if (signal.aborted) reject(cancelled());
          joined.frames.next().then(resolve, (error: unknown) => reject(broken(error)));
        });
        if (next.done === true) throw broken(undefined);
        const { frame } = next.value;
        if (frame.case === "log") {
          yield pieceFromWire(frame.value);
          // Only now: the reader has come back for more.
          taken += frame.value.data.length;
          if (taken < LIMITS.sessionCreditBytes / 2) continue;
          joined.send(creditFrame(taken));
          taken = 0;
        }
        if (frame.case === "end") {
          if (frame.value.errorReason === "") return;
          throw refused(frame.value);
        }
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      joined.release();
    }
  }

  /** One answer. Ends by itself within twice the time that a session may take to open. */
  async readMetrics(hostId: string, machineId: string, caller: AbortSignal): Promise<Reading> {
    const session = this.#registry.get(hostId);
    const kind = { case: "metrics", value: { $typeName: "leveret.v1.MetricsSession" } } as const;
    const joined = await this.join(hostId, { machineId, creditBytes: 0n, kind }, caller);
    const late = AbortSignal.timeout(this.#timeoutMs);
    const ends = [caller, late, ...(session === undefined ? [] : [session.ended])];
    const signal = AbortSignal.any(ends);
    let onAbort: () => void = () => undefined;
    try {
      const ended = new Promise<never>((_, reject) => {
        onAbort = () => reject(caller.aborted ? cancelled() : broken(signal.reason));
        signal.addEventListener("abort", onAbort, { once: true });
        if (signal.aborted) onAbort();
      });
      const first = joined.frames.next().catch((error: unknown) => {
        throw broken(error);
      });
      const { value, done } = await Promise.race([first, ended]);
      const frame = done === true ? undefined : value.frame;
      if (frame?.case === "metrics") return readingFromWire(frame.value);
      throw frame?.case === "end" ? refused(frame.value) : broken(undefined);
    } finally {
      signal.removeEventListener("abort", onAbort);
      joined.release();
    }
  }

  /**
   * Asks the host for a session and waits until it is there; the caller releases it. Throws
   * HOST_UNAVAILABLE, LINK_LOST, CANCELLED.
   */
  async join(hostId: string, request: Request, signal: AbortSignal): Promise<Joined> {
    const session = this.#registry.get(hostId);
    if (session === undefined)
      throw new LvError("HOST_UNAVAILABLE", `The host ${hostId} is not connected`);
    return await this.#join(session, request, signal);
  }

  #join(session: HubSession, request: Request, signal: AbortSignal): Promise<Joined> {
    const sessionId = SessionId.create();
    return new Promise<Joined>((resolve, reject) => {
      const settle = (act: () => void): void => {
        this.#waiting.delete(sessionId);
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
        session.ended.removeEventListener("abort", onLost);
        act();
      };
      const fail = (error: LvError): void => settle(() => reject(error));
      const onAbort = (): void => fail(cancelled());
      const onLost = (): void =>
        fail(new LvError("LINK_LOST", "The host's link dropped while the session was opened"));
      const timer = setTimeout(
        () =>
          fail(
            new LvError(
              "HOST_UNAVAILABLE",
              `The host did not open the session within ${this.#timeoutMs / 1000} s`,
            ),
          ),
        this.#timeoutMs,
      );
      if (signal.aborted) return onAbort();
      if (session.closed) return onLost();
      signal.addEventListener("abort", onAbort, { once: true });
      session.ended.addEventListener("abort", onLost, { once: true });
      this.#waiting.set(sessionId, { session, join: (joined) => settle(() => resolve(joined)) });
      session.send({
        case: "openSession",
        value: {
          $typeName: "leveret.v1.OpenSession",
          sessionId,
          ...request,
        },
      });
    });
  }

  /** Whether a session of this id was asked for here and has no Attach yet. */
  waitsFor(sessionId: string): boolean {
    return this.#waiting.has(sessionId);
  }

  /** The Attach call: joins the waiting session and holds on until it has ended. */
  async *serve(
    { sessionId, hostId, epoch, frames }: Opened,
    signal: AbortSignal,
  ): AsyncGenerator<SessionFrame> {
    const waiting = this.#waiting.get(sessionId);
    const origin = waiting?.session.origin;
    if (waiting === undefined || origin?.hostId !== hostId || BigInt(origin.epoch) !== epoch)
      throw new LvError("NOT_FOUND", `No session ${sessionId.slice(0, 80)} waits for this host`);
    const out = new Queue<SessionFrame>(OUT_MAX);
    signal.addEventListener("abort", () => out.close(), { once: true });
    waiting.join({
      frames,
      send: (frame) => out.push(create(SessionFrameSchema, { frame })),
      release: () => out.close(),
    });
    yield* out;
    // The reader may have gone first: the agent is told, and stops producing.
    yield create(SessionFrameSchema, {
      frame: {
        case: "end",
        value: { $typeName: "leveret.v1.SessionEnd", errorReason: "", errorMessage: "" },
      },
    });
  }
}

function creditFrame(bytes: number): SessionFrame["frame"] {
  const value = { $typeName: "leveret.v1.SessionCredit", bytes: BigInt(bytes) } as const;
  return { case: "credit", value };
}

function refused({ errorReason, errorMessage }: SessionEnd): LvError {
  return new LvError(isReason(errorReason) ? errorReason : "INTERNAL", errorMessage);
}

function cancelled(): LvError {
  return new LvError("CANCELLED", "The reader went away");
}

function broken(cause: unknown): LvError {
  return new LvError("LINK_LOST", "The host's session broke off", { cause });
}
