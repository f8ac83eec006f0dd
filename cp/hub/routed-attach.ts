/**
 * An agent's Attach at any replica. Behind a load balancer it may come to another one than
 * asked for the session: that one passes its frames on to the owner of the host's stream,
 * and the owner's back, for as long as the session lives.
 *
 *   agent ═ Attach ═ replica asked ═ WebSocket, frame-pipe.ts ═ owner: Attachments.serve
 *
 * Whose session it is, the owner decides as it does for its own calls: by the host of the
 * certificate, which the asked replica names, and by the epoch. What the owner is asked
 * for is never passed on again.
 */
import { z } from "zod";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import type { SessionFrame } from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId, SessionId } from "../../proto/ids.ts";
import { type Attachments, readOpen } from "./attach.ts";
import { FramePipe } from "./frame-pipe.ts";
import type { Owners } from "./owners.ts";

export const ATTACH_PATH = "/internal/attach";

export const AttachQuery = z.object({
  host: z.string().refine(HostId.is),
  session: z.string().refine(SessionId.is),
  epoch: z.string().regex(/^\d{1,20}$/),
});

export class RoutedAttach {
  readonly #owners: Owners;
  readonly #local: Attachments;
  #relayed = 0;

  constructor(owners: Owners, local: Attachments) {
    this.#owners = owners;
    this.#local = local;
  }

  /** Sessions that go through two replicas of which this is one. */
  get relayed(): number {
    return this.#relayed;
  }

  /** The agent's call. `caller`: the host of the connection's certificate; undefined on a plain link. */
  async *serve(
    frames: AsyncIterable<SessionFrame>,
    signal: AbortSignal,
    caller?: string,
  ): AsyncGenerator<SessionFrame> {
    const opened = await readOpen(frames, caller);
    const { sessionId: session, hostId: host, epoch } = opened;
    const query = AttachQuery.safeParse({ host, session, epoch: String(epoch) });
    const isOurs = this.#local.waitsFor(session) || !query.success;
    const owner = isOurs ? null : await this.#owners.elsewhere(host);
    if (owner === null || !query.success) return yield* this.#local.serve(opened, signal);
    const url = `${owner}${ATTACH_PATH}?${new URLSearchParams(query.data).toString()}`;
    yield* this.#relay(url, opened.frames, signal);
  }

  async *#relay(
    url: string,
    frames: AsyncIterator<SessionFrame>,
    signal: AbortSignal,
  ): AsyncGenerator<SessionFrame> {
    this.#relayed += 1;
    const pipe = dialPipe(url, this.#owners.secret);
    const gone = (): void => pipe.close(new LvError("CANCELLED", "The agent went away"));
    signal.addEventListener("abort", gone, { once: true });
    if (signal.aborted) gone();
    void pump(frames, pipe);
    try {
      yield* pipe.frames();
    } finally {
      signal.removeEventListener("abort", gone);
      gone();
      this.#relayed -= 1;
    }
  }

  /** The owner's side of `#relay`. Resolves when the session is over; never rejects. */
  async take(query: z.infer<typeof AttachQuery>, pipe: FramePipe): Promise<void> {
    const { host: hostId, session: sessionId } = query;
    this.#relayed += 1;
    try {
      const opened = { hostId, sessionId, epoch: BigInt(query.epoch), frames: pipe.frames() };
      for await (const frame of this.#local.serve(opened, pipe.over)) await pipe.send(frame);
      pipe.end();
    } catch (error) {
      pipe.end(LvError.from(error));
    } finally {
      this.#relayed -= 1;
    }
  }
}

/** Until the agent ends its half, or the pipe is over. Never rejects. */
async function pump(frames: AsyncIterator<SessionFrame>, pipe: FramePipe): Promise<void> {
  try {
    // Not for await, which would end the agent's call when the owner has ended the session.
    for (;;) {
      const next = await frames.next();
      if (next.done === true) return pipe.end();
      await pipe.send(next.value);
    }
  } catch (cause) {
    pipe.close(new LvError("LINK_LOST", "The host's session broke off", { cause }));
  }
}

/** Returns at once; what is sent before the other side has answered waits for it. */
function dialPipe(url: string, secret: string): FramePipe {
  const socket = new WebSocket(url.replace(/^http/, "ws"), {
    headers: { authorization: `Bearer ${secret}` },
  });
  socket.binaryType = "arraybuffer";
  const early: (string | Uint8Array<ArrayBuffer>)[] = [];
  const pipe = new FramePipe({
    send: (message) => {
      if (socket.readyState === WebSocket.CONNECTING) early.push(message);
      else if (socket.readyState === WebSocket.OPEN) socket.send(message);
    },
    close: () => {
      clearTimeout(late);
      socket.terminate();
    },
  });
  const late = setTimeout(
    () => pipe.close(new LvError("LINK_LOST", "The host's replica does not answer")),
    LIMITS.sessionOpenTimeoutMs,
  );
  socket.addEventListener("open", () => {
    clearTimeout(late);
    for (const message of early.splice(0)) socket.send(message);
  });
  socket.addEventListener("message", ({ data }: MessageEvent<string | ArrayBuffer>) =>
    pipe.received(typeof data === "string" ? data : new Uint8Array(data)),
  );
  // A refusal is an error and a close, and so is a connection that breaks.
  socket.addEventListener("error", () => pipe.closed());
  socket.addEventListener("close", () => pipe.closed());
  return pipe;
}
