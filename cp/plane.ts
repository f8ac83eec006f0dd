/**
 * A control plane without listeners: its parts and what it does again and again.
 * The server gives it a network and real time, the simulator gives it neither.
 */
import type { Clock } from "../lib/clock.ts";
import type { Log } from "../lib/log.ts";
import type { ReplicaId } from "../proto/ids.ts";
import type { Database } from "./db/index.ts";
import { Attachments } from "./hub/attach.ts";
import { closeRevoked } from "./hub/hosts-admin.ts";
import { Outbox } from "./hub/outbox.ts";
import { ProgressBoard } from "./hub/progress.ts";
import { Registry } from "./hub/registry.ts";
import type { HubParts } from "./hub/service.ts";
import type { Authority } from "./ops/authority.ts";
import { Changes } from "./ops/changes.ts";
import type { Deps } from "./ops/deps.ts";
import { restartDue } from "./ops/ended.ts";
import { sweepHosts } from "./ops/host-down.ts";
import { prune } from "./ops/prune.ts";
import { endConflicts } from "./ops/instances.ts";
import { reconcileHosts } from "./ops/reconcile.ts";

const OUTBOX_POLL_MS = 1_000;
const RESTART_MS = 500;
const PRUNE_MS = 3_600_000;
export const RECONCILE_MS = 5_000;

export type PlaneOptions = {
  database: Database;
  clock: Clock;
  log: Log;
  replicaId: ReplicaId;
  /** Issues hosts' certificates; null or left out = a plain link. */
  authority?: Authority | null;
  outboxPollMs?: number;
  reconcileMs?: number;
  sessionOpenTimeoutMs?: number;
};

export type Periodic = { name: string; ms: number; work: () => Promise<void> };

export type Plane = { deps: Deps; parts: HubParts; periodic: Periodic[] };

export function composePlane(options: PlaneOptions): Plane {
  const { database, clock, log, replicaId } = options;
  const registry = new Registry();
  const deps: Deps = {
    database,
    clock,
    log,
    changes: new Changes(),
    wake: (hostId) => outbox.wake(hostId),
  };
  const outbox = new Outbox(deps, registry);
  const parts: HubParts = {
    deps,
    replicaId,
    registry,
    outbox,
    attachments: new Attachments(registry, options.sessionOpenTimeoutMs),
    progress: new ProgressBoard(),
    authority: options.authority ?? null,
  };
  const reconcile = async (): Promise<void> => {
    await sweepHosts(deps, replicaId, (origin) => registry.holds(origin));
    await closeRevoked(parts);
    await endConflicts(deps);
    await closeRevoked(parts);
    await reconcileHosts(deps, registry.hostIds());
  };
  return {
    deps,
    parts,
    periodic: [
      {
        name: "outbox",
        ms: options.outboxPollMs ?? OUTBOX_POLL_MS,
        work: () => outbox.poll(),
      },
      { name: "reconcile", ms: options.reconcileMs ?? RECONCILE_MS, work: reconcile },
      { name: "restart", ms: RESTART_MS, work: () => restartDue(deps) },
      { name: "prune", ms: PRUNE_MS, work: () => prune(deps) },
    ],
  };
}
