/**
 * A control plane without listeners: its parts and what it does again and again.
 * The server gives it a network and real time, the simulator gives it neither.
 */
import type { Clock } from "../lib/clock.ts";
import type { Log } from "../lib/log.ts";
import { LvError } from "../proto/errors.ts";
import type { ReplicaId } from "../proto/ids.ts";
import type { Database } from "./db/index.ts";
import { leaveReplica } from "./db/queries/replicas.ts";
import { Acks } from "./hub/acks.ts";
import { Attachments } from "./hub/attach.ts";
import { Heartbeats } from "./hub/heartbeats.ts";
import { closeRevoked } from "./hub/hosts-admin.ts";
import { Outbox } from "./hub/outbox.ts";
import { ProgressBoard } from "./hub/progress.ts";
import { Registry } from "./hub/registry.ts";
import { Results } from "./hub/results.ts";
import type { HubParts } from "./hub/service.ts";
import type { Authority } from "./ops/authority.ts";
import { Changes } from "./ops/changes.ts";
import type { Deps } from "./ops/deps.ts";
import { restartDue } from "./ops/ended.ts";
import { drainHosts, LOST_AFTER_S, sweepFleet } from "./ops/fleet.ts";
import { placePending } from "./ops/pending.ts";
import { sweepHosts } from "./ops/host-down.ts";
import { prune } from "./ops/prune.ts";
import { endConflicts } from "./ops/instances.ts";
import { reconcileHosts } from "./ops/reconcile.ts";
import { RegistrySecrets } from "./ops/registries.ts";
import { Relay } from "./ops/relay.ts";
import { RENEW_MS, Replica } from "./ops/replicas.ts";
import type { Origin } from "./ops/report.ts";

const OUTBOX_POLL_MS = 1_000;
const RESTART_MS = 500;
const LIVENESS_MS = 2_000;
const PRUNE_MS = 3_600_000;
export const RECONCILE_MS = 5_000;

export type PlaneOptions = {
  database: Database;
  clock: Clock;
  log: Log;
  replicaId: ReplicaId;
  /** Where other replicas reach this one; null = it is the only one on its database. */
  replicaUrl: (() => string) | null;
  /** Issues hosts' certificates; null or left out = a plain link. */
  authority?: Authority | null;
  /** What secrets in the database are sealed with; read when the first one is needed. */
  secretKey?: () => Uint8Array;
  /** A host that is away for so long is `lost`. */
  lostAfterS?: number;
  outboxPollMs?: number;
  reconcileMs?: number;
  sessionOpenTimeoutMs?: number;
};

export type Periodic = { name: string; ms: number; work: () => Promise<void> };

export type Plane = {
  deps: Deps;
  secrets: RegistrySecrets;
  parts: HubParts;
  periodic: Periodic[];
  /** Once the listeners are open: says that we are there, and hears of the others. */
  enter(): Promise<void>;
  /** After the last one. */
  leave(): Promise<void>;
};

function noKey(): never {
  throw new LvError("CONFIG_INVALID", "This control plane has no secret key");
}

export function composePlane(options: PlaneOptions): Plane {
  const { database, clock, log, replicaId } = options;
  const registry = new Registry();
  const relay = options.replicaUrl === null ? null : new Relay(database, replicaId, log);
  const deps: Deps = {
    database,
    clock,
    log,
    changes: new Changes((change) => relay?.tell(change)),
    wake: (hostId) => {
      if (relay === null || registry.get(hostId) !== undefined) outbox.wake(hostId);
      else relay.tell({ kind: "wake", id: hostId });
    },
  };
  const secrets = new RegistrySecrets(options.secretKey ?? noKey);
  const outbox = new Outbox(deps, registry, replicaId, secrets);
  const parts: HubParts = {
    deps,
    replicaId,
    registry,
    outbox,
    attachments: new Attachments(registry, options.sessionOpenTimeoutMs),
    progress: new ProgressBoard(),
    heartbeats: new Heartbeats(deps, replicaId),
    acks: new Acks(deps),
    results: new Results(deps),
    authority: options.authority ?? null,
  };
  const lostAfterS = options.lostAfterS ?? LOST_AFTER_S;
  const movements = async (): Promise<void> => {
    await drainHosts(deps);
    await restartDue(deps);
    await placePending(deps);
  };
  const reconcile = async (): Promise<void> => {
    await sweepHosts(deps, replicaId, (origin) => registry.holds(origin));
    await closeRevoked(parts);
    await endConflicts(deps);
    await closeRevoked(parts);
    await reconcileHosts(deps, { replicaId });
  };
  const streams = {
    origins: () => registry.all().map((session) => session.origin),
    close: ({ hostId }: Origin) => registry.get(hostId)?.close(),
  };
  const replica = new Replica(deps, replicaId, options.replicaUrl ?? (() => ""), streams);
  let hearing: AsyncDisposable | null = null;
  return {
    deps,
    secrets,
    parts,
    enter: async () => {
      hearing =
        (await relay?.listen({
          changed: (change) => deps.changes.deliver(change),
          wake: (hostId) => outbox.wake(hostId),
        })) ?? null;
      await replica.enter();
    },
    leave: async () => {
      await hearing?.[Symbol.asyncDispose]();
      await leaveReplica(database.db, replicaId).catch((error: unknown) =>
        log.warn({ err: error }, "cannot give up the lease; it runs out"),
      );
    },
    periodic: [
      {
        name: "heartbeats",
        ms: options.outboxPollMs ?? OUTBOX_POLL_MS,
        work: () => parts.heartbeats.flush(),
      },
      { name: "lease", ms: RENEW_MS, work: () => replica.renew() },
      { name: "sweep", ms: RENEW_MS, work: () => replica.sweep() },
      {
        name: "acks",
        ms: options.outboxPollMs ?? OUTBOX_POLL_MS,
        work: () => parts.acks.flush(),
      },
      {
        name: "outbox",
        ms: options.outboxPollMs ?? OUTBOX_POLL_MS,
        work: () => outbox.poll(),
      },
      { name: "reconcile", ms: options.reconcileMs ?? RECONCILE_MS, work: reconcile },
      { name: "restart", ms: RESTART_MS, work: movements },
      { name: "liveness", ms: LIVENESS_MS, work: () => sweepFleet(deps, lostAfterS) },
      { name: "prune", ms: PRUNE_MS, work: () => prune(deps) },
    ],
  };
}
