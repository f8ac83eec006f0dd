/** The AgentLink calls that go through Connect's library: all but the control stream. */
import type { ServiceImpl } from "@connectrpc/connect";
import { LvError } from "../../proto/errors.ts";
import type { AgentLink } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Authority } from "../ops/authority.ts";
import type { Deps } from "../ops/deps.ts";
import { enroll } from "../ops/enroll.ts";
import type { Attachments } from "./attach.ts";
import type { Acks } from "./acks.ts";
import type { Heartbeats } from "./heartbeats.ts";
import type { Outbox } from "./outbox.ts";
import { callerKey, requirePeer } from "./peer.ts";
import type { ProgressBoard } from "./progress.ts";
import type { Registry } from "./registry.ts";
import type { Results } from "./results.ts";
import type { RoutedAttach } from "./routed-attach.ts";

export type HubParts = {
  deps: Deps;
  replicaId: string;
  registry: Registry;
  outbox: Outbox;
  attachments: Attachments;
  progress: ProgressBoard;
  heartbeats: Heartbeats;
  acks: Acks;
  results: Results;
  /** Issues hosts' certificates; null = a plain link on loopback. */
  authority: Authority | null;
};

/** What a hub that listens has beside: calls of agents whose streams end at other replicas. */
export type LinkParts = HubParts & { attach: RoutedAttach };

export function hubService(
  parts: LinkParts,
): Pick<ServiceImpl<typeof AgentLink>, "enroll" | "attach"> {
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
    attach: (frames, context) => attach(parts, frames, context),
  };
}

/** What the caller is told; what nobody foresaw is logged here. */
export function refusal(parts: HubParts, error: unknown): ReturnType<LvError["toConnect"]> {
  const known = LvError.from(error);
  if (known.reason === "INTERNAL") parts.deps.log.error({ err: error }, "a call failed");
  return known.toConnect();
}

async function* attach(
  parts: LinkParts,
  ...[frames, context]: Parameters<ServiceImpl<typeof AgentLink>["attach"]>
): ReturnType<RoutedAttach["serve"]> {
  try {
    const peer = requirePeer(context.values.get(callerKey));
    yield* parts.attach.serve(frames, context.signal, peer?.hostId);
  } catch (error) {
    throw refusal(parts, error);
  }
}
