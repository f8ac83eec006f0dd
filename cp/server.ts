/**
 * Composes and runs a control plane.
 *
 *   config → context (lock, PostgreSQL, schema) → hub → loops → REST → serving
 *
 * The end is the reverse and takes at most DRAIN_MS before the database is closed:
 * agents get Goodbye and come back by themselves, SSE streams end, requests finish.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { LIMITS } from "../lib/limits.ts";
import { LvError } from "../proto/errors.ts";
import { Goodbye_Reason } from "../proto/gen/leveret/v1/agent_pb.js";
import { ReplicaId } from "../proto/ids.ts";
import { checkLink, loadConfig, type Config } from "./config.ts";
import { createContext, type Context, type ContextOverrides } from "./context.ts";
import { clusterSecret } from "./db/queries/replicas.ts";
import { hostsAdmin } from "./hub/hosts-admin.ts";
import { listenHub } from "./hub/listen.ts";
import { Owners } from "./hub/owners.ts";
import { RoutedAttach } from "./hub/routed-attach.ts";
import { RoutedLogs } from "./hub/routed-logs.ts";
import { RoutedMetrics } from "./hub/routed-metrics.ts";
import { RoutedUploads } from "./hub/routed-uploads.ts";
import { HubUploads } from "./hub/uploads.ts";
import type { HubParts } from "./hub/service.ts";
import { createApp } from "./http/app.ts";
import type { App } from "./http/deps.ts";
import { REPLICA_SOCKETS, type ReplicaSocket, type Upgrade } from "./http/replica-sockets.ts";
import { startLoop } from "./loops.ts";
import { composePlane, type PlaneOptions } from "./plane.ts";
import { loadSecretKey } from "./secret-key.ts";
import { Authority } from "./ops/authority.ts";
import type { Deps } from "./ops/deps.ts";
import { allHostsDown } from "./ops/host-down.ts";
import { ADMIN_TOKEN_FILE, firstToken } from "./ops/tokens.ts";

export const VERSION = "0.1.0";

const DRAIN_MS = 5_000;
const GOODBYE_JITTER_MS = 1_000;

type Periods = Pick<PlaneOptions, "outboxPollMs" | "reconcileMs" | "sessionOpenTimeoutMs">;

export type Overrides = ContextOverrides &
  Periods & {
    /** Replaces what the environment says, variable by variable. */
    config?: Partial<Config>;
    env?: Record<string, string | undefined>;
    pingIntervalMs?: number;
    strangerMs?: number;
  };

export type ControlPlane = AsyncDisposable & {
  /** The first admin token, when this start has made it; to be shown, once. */
  firstToken: string | null;
  httpUrl: string;
  /** host:port for an agent's CONTROL_PLANE_GRPC_ADDR. */
  grpcAddr: string;
  app: App;
  deps: Deps;
  /** Resolves when the embedded database ends without being asked to. */
  failed: Promise<void>;
};

export async function startControlPlane(overrides: Overrides = {}): Promise<ControlPlane> {
  const config = { ...loadConfig(overrides.env ?? process.env), ...overrides.config };
  checkLink(config);
  await using starting = new AsyncDisposableStack();
  const context = starting.use(await createContext(config, overrides));
  const { log, database } = context;
  const shutdown = new AbortController();
  let key: Uint8Array | undefined;
  const secretKey = (): Uint8Array => (key ??= loadSecretKey(config));
  const plane = composePlane({
    database,
    clock: context.clock,
    log,
    replicaId: ReplicaId.create(),
    replicaUrl: config.databaseUrl === null ? null : () => config.replicaUrl ?? httpUrl,
    authority: config.insecureLink
      ? null
      : await Authority.open(database.db, secretKey(), context.clock),
    secretKey,
    lostAfterS: config.lostAfterS,
    ...periodsOf(overrides),
  });
  const { deps, parts, periodic, secrets } = plane;
  const { outbox, attachments, progress, registry, replicaId } = parts;
  const madeToken = await makeFirstToken(context);
  const secret = await clusterSecret(database.db, randomBytes(32).toString("hex"));
  if (config.databaseUrl === null) await allHostsDown(deps);

  starting.defer(() => plane.leave());
  starting.defer(() => outbox.idle());
  const owners = new Owners(deps, registry, { id: replicaId, secret });
  const attach = new RoutedAttach(owners, attachments);
  const link = { ...parts, attach };
  const hub = starting.use(
    await listenHub(link, {
      host: config.grpcHost,
      port: config.grpcPort,
      tls: (await parts.authority?.serverCredentials(config.grpcNames)) ?? null,
      pingIntervalMs: overrides.pingIntervalMs ?? LIMITS.pingIntervalMs,
      strangerMs: overrides.strangerMs ?? LIMITS.strangerMs,
    }),
  );
  starting.defer(() => drainHub(parts, context));
  const uploads = new HubUploads(attachments);
  const app = createApp(
    {
      ...deps,
      logs: new RoutedLogs(owners, attachments),
      metrics: new RoutedMetrics(owners, attachments),
      internal: { secret, logs: attachments, metrics: attachments, uploads, attach },
      hosts: hostsAdmin(parts),
      progress: (id) => progress.get(id),
      secretKey,
      uploads: new RoutedUploads(owners, uploads),
      secrets,
      shutdown: shutdown.signal,
    },
    VERSION,
  );
  const httpUrl = listenHttp(app, config, shutdown, starting);
  await plane.enter();
  for (const one of periodic) starting.use(startLoop({ ...one, clock: context.clock, log }));
  const running = starting.move();
  let stopping = false;
  log.info({ httpUrl, grpcAddr: hub.address }, "control plane is ready");
  return {
    firstToken: madeToken,
    httpUrl,
    grpcAddr: hub.address,
    app,
    deps,
    failed: context.databaseLost.then(() =>
      stopping ? new Promise<void>(() => undefined) : undefined,
    ),
    [Symbol.asyncDispose]: async () => {
      stopping = true;
      shutdown.abort(new LvError("SHUTTING_DOWN", "The control plane is shutting down"));
      await running.disposeAsync();
      log.info("control plane ended");
    },
  };
}

function periodsOf({ outboxPollMs, reconcileMs, sessionOpenTimeoutMs }: Periods): Periods {
  return {
    ...(outboxPollMs === undefined ? {} : { outboxPollMs }),
    ...(reconcileMs === undefined ? {} : { reconcileMs }),
    ...(sessionOpenTimeoutMs === undefined ? {} : { sessionOpenTimeoutMs }),
  };
}

function makeFirstToken({ config, database, log }: Context): Promise<string | null> {
  return firstToken(database, {
    file: join(config.dataDir, ADMIN_TOKEN_FILE),
    given: config.bootstrapToken,
    onUnwritable: (err) => log.warn({ err }, "the admin token is shown but not kept in a file"),
  });
}

function listenHttp(
  app: App,
  config: Config,
  shutdown: AbortController,
  stack: AsyncDisposableStack,
): string {
  try {
    const server = Bun.serve<ReplicaSocket>({
      hostname: config.httpHost,
      port: config.httpPort,
      // Streams are quiet for as long as a machine is; they end themselves.
      idleTimeout: 0,
      // Routes have bounds of their own; only the loading of images has one so large.
      maxRequestBodySize: LIMITS.imageArchiveBytes,
      fetch: (request, listener) => {
        const upgrade: Upgrade = (data) => listener.upgrade(request, { data });
        return app.fetch(request, { upgrade });
      },
      websocket: REPLICA_SOCKETS,
    });
    stack.defer(async () => {
      shutdown.abort();
      const forced = setTimeout(() => void server.stop(true), DRAIN_MS / 2);
      await server.stop(false);
      clearTimeout(forced);
    });
    return server.url.origin;
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new LvError(
      "CONFIG_INVALID",
      `HTTP_PORT=${config.httpPort}: cannot listen on ${config.httpHost}:${config.httpPort}: ${why}`,
      { cause: error },
    );
  }
}

/** Tells the agents, and waits until their streams are gone. */
async function drainHub(parts: HubParts, context: Context): Promise<void> {
  for (const session of parts.registry.all()) {
    const after = 100 + Math.floor(Math.random() * GOODBYE_JITTER_MS);
    session.goodbye(Goodbye_Reason.SHUTDOWN, "The control plane is shutting down", after);
  }
  const deadline = context.clock.now() + DRAIN_MS / 2;
  while (parts.registry.all().length > 0 && context.clock.now() < deadline)
    await context.clock.sleep(10);
}
