/**
 * The control stream of one agent, whatever carries it: Hello → Register → Welcome →
 * inventory → frames, until either side ends. The newest stream of a host wins; what
 * an older one still does is fenced by its epoch, its mark-down at the end included.
 *
 *   expecting Hello → registering → in session → over
 *
 * The carrier calls frame(), then halfClosed() perhaps, and closed() once; nothing here
 * waits for it, and what is said down is the carrier's to keep and count.
 */
import { create } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import {
  Goodbye_Reason,
  GoodbyeSchema,
  HubFrameSchema,
  WelcomeSchema,
  type AgentFrame,
  type Hello,
  type HubFrame,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { reopenImageOps } from "../db/queries/image-jobs.ts";
import type { Peer } from "../ops/authority.ts";
import { renew } from "../ops/enroll.ts";
import { hostDown } from "../ops/host-down.ts";
import { reconcileInventory } from "../ops/reconcile.ts";
import { inventoryOf, register } from "./register.ts";
import { refusal, type HubParts } from "./service.ts";
import { HubSession, type Down } from "./session.ts";

export class ControlStream {
  readonly #parts: HubParts;
  readonly #down: Down;
  readonly #peer: Peer | null;
  #session: HubSession | undefined;
  /** What came while the host was being registered; undefined until Hello has come. */
  #early: AgentFrame[] | undefined;
  #halfClosed = false;
  #closed = false;

  /** `peer`: whose certificate it was opened with; null on a plain link. */
  constructor(parts: HubParts, peer: Peer | null, down: Down) {
    this.#parts = parts;
    this.#down = down;
    this.#peer = peer;
  }

  frame(frame: AgentFrame): void {
    if (this.#session !== undefined) return this.#session.take(frame);
    if (this.#early === undefined) return this.#first(frame);
    if (this.#early.length < LIMITS.hubQueueFrames) this.#early.push(frame);
    else this.#down.abort();
  }

  /** The agent says no more. */
  halfClosed(): void {
    this.#halfClosed = true;
    if (this.#session !== undefined) this.#session.close();
    else if (this.#early === undefined) this.#down.end(noHello());
  }

  /** The stream is no more. */
  closed(): void {
    this.#closed = true;
    if (this.#session !== undefined) void leave(this.#parts, this.#session);
  }

  #first({ frame }: AgentFrame): void {
    this.#early = [];
    if (frame.case !== "hello") return this.#down.end(noHello());
    void this.#enter(frame.value);
  }

  async #enter(hello: Hello): Promise<void> {
    const parts = this.#parts;
    try {
      const session = await enter(parts, hello, this.#peer, this.#down);
      if (session instanceof LvError) {
        this.#down.send(rejection(session));
        return this.#down.end();
      }
      this.#session = session;
      session.begin(arrive(parts, session, hello));
      for (const frame of this.#early ?? []) session.take(frame);
      this.#early = undefined;
      if (this.#halfClosed) session.close();
      if (this.#closed) await leave(parts, session);
    } catch (error) {
      this.#down.end(refusal(parts, error));
    }
  }
}

function noHello(): ConnectError {
  return new LvError("BAD_REQUEST", "The first frame must be Hello").toConnect();
}

/** An LvError for an agent that must not come back as it is; throws for what may pass. */
async function enter(
  parts: HubParts,
  hello: Hello,
  peer: Peer | null,
  down: Down,
): Promise<HubSession | LvError> {
  const { deps, registry, replicaId, authority } = parts;
  try {
    const origin = await register(deps, hello, replicaId, peer);
    const session = new HubSession(parts, origin, down);
    if (authority !== null && peer !== null)
      session.identity = {
        peer,
        notAfter: peer.notAfter,
        renew: (csr) => renew(deps, authority, peer, csr),
      };
    session.send({
      case: "welcome",
      value: create(WelcomeSchema, {
        hostId: origin.hostId,
        heartbeatIntervalMs: LIMITS.heartbeatIntervalMs,
        replicaId,
      }),
    });
    registry.set(session)?.supersede(Goodbye_Reason.SUPERSEDED);
    deps.log.info({ ...origin, hostname: hello.hostname }, "host connected");
    return session;
  } catch (error) {
    const known = LvError.from(error);
    if (known.reason === "BAD_REQUEST" || known.reason === "PERMISSION_DENIED") return known;
    deps.log.error({ err: error }, "cannot register a host");
    throw known;
  }
}

function rejection(error: LvError): HubFrame {
  const value = create(GoodbyeSchema, { reason: Goodbye_Reason.REJECTED, message: error.message });
  return create(HubFrameSchema, { frame: { case: "goodbye", value } });
}

/** The inventory first: an op must not be sent on what is known from before. */
async function arrive(parts: HubParts, session: HubSession, hello: Hello): Promise<void> {
  const { deps, outbox } = parts;
  const { hostId } = session.origin;
  try {
    await reconcileInventory(deps, session.origin, inventoryOf(hello));
    await reopenImageOps(deps.database.db, hostId);
    session.open();
    deps.changes.publish({ kind: "host", id: hostId });
    outbox.wake(hostId);
  } catch (error) {
    deps.log.error({ ...session.origin, err: error }, "cannot store the inventory; closing");
    session.close();
  }
}

/** Marks the host down, if this stream is still its newest. */
async function leave(parts: HubParts, session: HubSession): Promise<void> {
  const { deps, registry } = parts;
  session.close();
  registry.delete(session);
  try {
    // What was read is stored first, so that "unknown" is the last word.
    await session.settled();
    if (await hostDown(deps, session.origin)) deps.log.warn(session.origin, "host disconnected");
  } catch (error) {
    // The sweep does it when the database is back.
    deps.log.error({ ...session.origin, err: error }, "cannot mark the host as disconnected");
  }
}
