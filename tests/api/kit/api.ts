/**
 * The REST API in-process, on a real PostgreSQL and without any agent. Every
 * answer is compared with what /openapi.json promises of its route.
 */
import { systemClock } from "../../../lib/clock.ts";
import { silentLog } from "../../../lib/log.ts";
import { HostId } from "../../../proto/ids.ts";
import { openDatabase, type Database } from "../../../cp/db/index.ts";
import { registerHost } from "../../../cp/db/queries/hosts.ts";
import { createApp } from "../../../cp/http/app.ts";
import type { HttpDeps } from "../../../cp/http/deps.ts";
import { Changes } from "../../../cp/ops/changes.ts";
import { RegistrySecrets } from "../../../cp/ops/registries.ts";
import { LvError } from "../../../proto/errors.ts";
import { firstToken } from "../../../cp/ops/tokens.ts";
import { AUTHORIZATION, TEST_TOKEN } from "../../kit/token.ts";
import { createDatabase } from "../../kit/postgres.ts";
import { Contract } from "./openapi.ts";

/** A list is an object too: tests that need its type parse it with the schema of proto/rest.ts. */
export type Body = Record<string, unknown>;
export type Answer = { status: number; body: Body; headers: Headers };

export type Api = AsyncDisposable & {
  database: Database;
  deps: HttpDeps;
  contract: Contract;
  /** Hosts that were woken, in order. */
  woken: string[];
  /** `route` is the path as the document writes it, when it has parameters. */
  call(method: string, path: string, body?: unknown, init?: CallInit): Promise<Answer>;
  addHost(capacity?: { cpus?: number; memoryMib?: number; diskMib?: number }): Promise<string>;
};

export type CallInit = { headers?: Record<string, string>; raw?: string; route?: string };

export async function startApi(): Promise<Api> {
  const database = await openDatabase(await createDatabase());
  const woken: string[] = [];
  const logs: HttpDeps["logs"] = {
    openLogs: () => {
      throw new LvError("HOST_UNAVAILABLE", "no hub here");
    },
  };
  const metrics: HttpDeps["metrics"] = {
    readMetrics: () => Promise.reject(new LvError("HOST_UNAVAILABLE", "no hub here")),
  };
  const uploads: HttpDeps["uploads"] = {
    open: () => Promise.reject(new LvError("HOST_UNAVAILABLE", "no hub here")),
  };
  const deps: HttpDeps = {
    database,
    clock: systemClock,
    log: silentLog(),
    changes: new Changes(),
    wake: (hostId) => void woken.push(hostId),
    logs,
    metrics,
    internal: {
      secret: "a secret of the replicas",
      logs,
      metrics,
      uploads,
      attach: { relayed: 0, take: () => Promise.resolve() },
    },
    hosts: {
      issueJoinToken: () => Promise.reject(new LvError("STATE_CONFLICT", "the link is plain")),
      revoke: () => Promise.resolve(0),
    },
    progress: () => null,
    secretKey: () => new Uint8Array(32),
    uploads,
    secrets: new RegistrySecrets(() => new Uint8Array(32).fill(7)),
    shutdown: new AbortController().signal,
  };
  const app = createApp(deps, "0.0.0");
  await firstToken(database, { file: "", given: TEST_TOKEN, onUnwritable: () => undefined });
  const document = await app.request("/openapi.json", { headers: AUTHORIZATION });
  const contract = new Contract(await document.json());
  return {
    database,
    deps,
    contract,
    woken,
    call: async (method, path, body, init = {}) => {
      const text = init.raw ?? (body === undefined ? undefined : JSON.stringify(body));
      const response = await app.request(path, {
        method,
        headers: {
          ...AUTHORIZATION,
          ...(text === undefined ? {} : { "content-type": "application/json" }),
          ...init.headers,
        },
        ...(text === undefined ? {} : { body: text }),
      });
      const answer: unknown = await response.json();
      const found = contract.check(method, init.route ?? routeOf(path), response.status, answer);
      if (found.length > 0) throw new Error(`not as documented:\n${found.join("\n")}`);
      return { status: response.status, body: answer as Body, headers: response.headers };
    },
    addHost: async ({ cpus = 4, memoryMib = 4096, diskMib = 20_000 } = {}) => {
      const id = HostId.create();
      await registerHost(database.db, {
        id,
        hostname: `host-${id.slice(4, 10)}`,
        arch: "amd64",
        kvm: "direct",
        version: "0",
        labels: {},
        bootId: "b",
        ownerReplica: null,
        capacityCpus: cpus,
        capacityMemoryMib: memoryMib,
        capacityDiskMib: diskMib,
      });
      return id;
    },
    [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
  };
}

/** /v1/machines/web/stop → /v1/machines/{id}/stop */
function routeOf(path: string): string {
  const [, version, noun, id, ...rest] = (path.split("?")[0] ?? "").split("/");
  if (version !== "v1" || id === undefined) return path.split("?")[0] ?? "";
  return ["", version, noun, "{id}", ...rest].join("/");
}
