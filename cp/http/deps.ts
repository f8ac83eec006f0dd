/** What the routes are given. */
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Principal } from "../core/access.ts";
import type { HostsAdmin } from "../hub/hosts-admin.ts";
import type { Deps } from "../ops/deps.ts";
import type { MetricsSource } from "../ops/machine-metrics.ts";
import type { LogSource } from "../ops/follow-logs.ts";
import type { Uploads } from "../ops/load-image.ts";
import type { RegistrySecrets } from "../ops/registries.ts";
import type { ImageProgress } from "../../proto/rest.ts";
import type { z } from "zod";
import type { Upgrade } from "./replica-sockets.ts";
import type { Internal } from "./routes/internal.ts";

export type HttpDeps = Deps & {
  logs: LogSource;
  metrics: MetricsSource;
  hosts: HostsAdmin;
  internal: Internal;
  uploads: Uploads;
  secrets: RegistrySecrets;
  /** What secrets in the database are sealed with; read when the first one is needed. */
  secretKey(): Uint8Array;
  /** Of a machine or of an image job. */
  progress(id: string): z.infer<typeof ImageProgress> | null;
  /** Aborts when the process ends: streams that would never end by themselves do. */
  shutdown: AbortSignal;
};

/** `principal` is set on every path that needs a token. */
export type Env = {
  Variables: {
    requestId: string;
    principal: Principal;
    /** A part of it has failed, though the answer is a success: the same may be asked again. */
    unfinished?: true;
  };
  /** Left out where a request comes from no listener. */
  Bindings: { upgrade?: Upgrade };
};
export type App = OpenAPIHono<Env>;
