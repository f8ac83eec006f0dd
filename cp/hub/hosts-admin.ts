/** What administrators do to hosts' identities; null authority = a plain link. */
import { LvError } from "../../proto/errors.ts";
import { Goodbye_Reason } from "../../proto/gen/leveret/v1/agent_pb.js";
import { recentlyRevoked } from "../db/queries/host-keys.ts";
import { issueJoinToken, revokeHost, type IssuedToken } from "../ops/enroll.ts";
import type { HubParts } from "./service.ts";

export type HostsAdmin = {
  /** Throws STATE_CONFLICT on a plain link. */
  issueJoinToken(ttlSeconds: number): Promise<IssuedToken>;
  /** The number of keys that may speak for the host no longer. */
  revoke(hostId: string): Promise<number>;
};

export function hostsAdmin(parts: HubParts): HostsAdmin {
  return {
    issueJoinToken: (ttlSeconds) => {
      if (parts.authority === null)
        throw new LvError(
          "STATE_CONFLICT",
          "The link is plain (LEVERET_INSECURE_LINK=1): hosts join without a token",
        );
      return issueJoinToken(parts.deps, parts.authority, ttlSeconds);
    },
    revoke: async (hostId) => {
      const keys = await revokeHost(parts.deps, hostId);
      closeStreams(parts, new Set(keys));
      return keys.length;
    },
  };
}

/** Streams whose keys were revoked elsewhere. Every replica looks again and again. */
export async function closeRevoked(parts: HubParts): Promise<void> {
  if (parts.authority === null) return;
  closeStreams(parts, new Set(await recentlyRevoked(parts.deps.database.db)));
}

function closeStreams({ registry }: HubParts, keys: Set<string>): void {
  if (keys.size === 0) return;
  for (const session of registry.all())
    if (session.identity !== null && keys.has(session.identity.peer.keyHash))
      session.goodbye(Goodbye_Reason.REJECTED, "The host's certificate was revoked", 0);
}
