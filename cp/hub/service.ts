/**
 * The AgentLink calls. Connect: Hello → Register → Welcome → inventory → frames,
 * until either side ends. The newest stream of a host wins; what an older one
 * still does is fenced by its epoch, its mark-down at the end included.
 */
import { create } from "@bufbuild/protobuf";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import {
  Goodbye_Reason,
  GoodbyeSchema,
  HubFrameSchema,
  type AgentFrame,
  type AgentLink,
  type Hello,
  type HubFrame,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { reopenImageOps } from "../db/queries/image-jobs.ts";
import type { Authority, Peer } from "../ops/authority.ts";
import type { Deps } from "../ops/deps.ts";
import { enroll, renew } from "../ops/enroll.ts";
import { hostDown } from "../ops/host-down.ts";
import { reconcileInventory } from "../ops/reconcile.ts";
import type { Attachments } from "./attach.ts";
import type { Heartbeats } from "./heartbeats.ts";
import type { Outbox } from "./outbox.ts";
import { callerKey, requirePeer } from "./peer.ts";
import type { ProgressBoard } from "./progress.ts";
import { inventoryOf, register } from "./register.ts";
import type { Registry } from "./registry.ts";
import { HubSession } from "./session.ts";

export type HubParts = {
  deps: Deps;
  replicaId: string;
  registry: Registry;
  outbox: Outbox;
  attachments: Attachments;
  progress: ProgressBoard;
  heartbeats: Heartbeats;
  /** Issues hosts' certificates; null = a plain link on loopback. */
  authority: Authority | null;
};

export function hubService(parts: HubParts): ServiceImpl<typeof AgentLink> {
  return {
    enroll: async (request) => {
      try {
        const { authority } = parts;
        if (authority === null)
          throw new LvError("UNIMPLEMENTED", "This link is plain: hosts need no certificate");
        const certificate = await enroll(parts.deps, authority, request);
        return { certificate, ca: authority.certificate };
      } catch (error) {
        throw refusal(parts, error);
      }
    },
    connect: (frames, context) => connect(parts, frames, context),
    attach: (frames, context) => attach(parts, frames, context),
  };
}

function refusal(parts: HubParts, error: unknown): ReturnType<LvError["toConnect"]> {
  const known = LvError.from(error);
  if (known.reason === "INTERNAL") parts.deps.log.error({ err: error }, "a call failed");
  return known.toConnect();
}

async function* attach(
  parts: HubParts,
  ...[frames, context]: Parameters<ServiceImpl<typeof AgentLink>["attach"]>
): ReturnType<Attachments["serve"]> {
  try {
    const peer = requirePeer(context.values.get(callerKey));
    yield* parts.attachments.serve(frames, context.signal, peer?.hostId);
  } catch (error) {
    throw refusal(parts, error);
  }
}

async function* connect(
  parts: HubParts,
  frames: AsyncIterable<AgentFrame>,
  context: HandlerContext,
): AsyncGenerator<HubFrame> {
  const peer = peerOf(parts, context);
  const iterator = frames[Symbol.asyncIterator]();
  const first = await iterator.next();
  const frame = first.done === true ? undefined : first.value.frame;
  if (frame?.case !== "hello")
    throw new LvError("BAD_REQUEST", "The first frame must be Hello").toConnect();
  const session = await enter(parts, frame.value, peer);
  if (session instanceof LvError) {
    yield rejection(session);
    return;
  }
  const { hostId, epoch } = session.origin;
  void session.read(iterator);
  const worker = arrive(parts, session, frame.value);
  const onAbort = (): void => session.close();
  context.signal.addEventListener("abort", onAbort, { once: true });
  try {
    yield create(HubFrameSchema, {
      epoch: BigInt(epoch),
      frame: {
        case: "welcome",
        value: {
          $typeName: "leveret.v1.Welcome",
          hostId,
          heartbeatIntervalMs: LIMITS.heartbeatIntervalMs,
          replicaId: parts.replicaId,
        },
      },
    });
    yield* session.out;
  } finally {
    context.signal.removeEventListener("abort", onAbort);
    session.close();
    parts.registry.delete(session);
    // What was read is stored first, so that "unknown" is the last word. The reader is
    // not waited for: it may be in the middle of a read that never ends.
    await worker;
    await leave(parts, session);
  }
}

function peerOf(parts: HubParts, context: HandlerContext): Peer | null {
  try {
    return requirePeer(context.values.get(callerKey));
  } catch (error) {
    throw refusal(parts, error);
  }
}

/** An LvError for an agent that must not come back as it is; throws for what may pass. */
async function enter(
  parts: HubParts,
  hello: Hello,
  peer: Peer | null,
): Promise<HubSession | LvError> {
  const { deps, registry, replicaId, progress, heartbeats, authority } = parts;
  try {
    const origin = await register(deps, hello, replicaId, peer);
    const session = new HubSession(deps, progress, heartbeats, origin);
    if (authority !== null && peer !== null)
      session.identity = {
        peer,
        notAfter: peer.notAfter,
        renew: (csr) => renew(deps, authority, peer, csr),
      };
    const earlier = registry.set(session);
    earlier?.supersede(Goodbye_Reason.SUPERSEDED);
    deps.log.info({ ...session.origin, hostname: hello.hostname }, "host connected");
    return session;
  } catch (error) {
    const known = LvError.from(error);
    if (known.reason === "BAD_REQUEST" || known.reason === "PERMISSION_DENIED") return known;
    deps.log.error({ err: error }, "cannot register a host");
    throw known.toConnect();
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
  await session.work();
}

/** Marks the host down, if this stream is still its newest. */
async function leave(parts: HubParts, session: HubSession): Promise<void> {
  const { deps } = parts;
  try {
    if (await hostDown(deps, session.origin)) deps.log.warn(session.origin, "host disconnected");
  } catch (error) {
    // The sweep does it when the database is back.
    deps.log.error({ ...session.origin, err: error }, "cannot mark the host as disconnected");
  }
}
