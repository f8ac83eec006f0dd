/** Everything the agent's parts share. Each part can be replaced by a test's. */
import type { Clock } from "../lib/clock.ts";
import type { Log } from "../lib/log.ts";
import type { HostId } from "../proto/ids.ts";
import type { AgentConfig } from "./config.ts";
import type { Identity } from "./link/identity.ts";
import type { dial } from "./link/transport.ts";
import type { Fleet } from "./runtime/fleet.ts";

export type AgentContext = {
  config: AgentConfig;
  clock: Clock;
  log: Log;
  hostId: HostId;
  version: string;
  fleet: Fleet;
  /** Names this run of the agent, at random. */
  instance: string;
  /** null = a plain link. */
  identity: Identity | null;
  /** In the place of link/transport.ts, for tests of the link without a network. */
  dial?: typeof dial;
};
