/** The REST API: one Hono app, testable in-process through `app.request()`. */
import { OpenAPIHono } from "@hono/zod-openapi";
import { bodyLimit } from "hono/body-limit";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { RequestId } from "../../proto/ids.ts";
import { TokenDirectory } from "../ops/tokens.ts";
import { audited, authenticate, minimum } from "./auth.ts";
import type { App, Env, HttpDeps } from "./deps.ts";
import { errorResponse, fromIssues } from "./errors.ts";
import { idempotent } from "./idempotency.ts";
import { Metrics } from "./metrics.ts";
import { systemRoutes } from "./routes/system.ts";
import { auditRoutes } from "./routes/audit.ts";
import { enrolmentRoutes } from "./routes/enrolment.ts";
import { eventRoutes } from "./routes/events.ts";
import { healthRoutes } from "./routes/health.ts";
import { hostRoutes } from "./routes/hosts.ts";
import { imageLoadRoutes, LOAD_PATH } from "./routes/image-load.ts";
import { imageRoutes } from "./routes/images.ts";
import { internalRoutes } from "./routes/internal.ts";
import { logRoutes } from "./routes/logs.ts";
import { machineConfigRoutes } from "./routes/machine-config.ts";
import { machineMetricsRoutes } from "./routes/machine-metrics.ts";
import { machineRoutes } from "./routes/machines.ts";
import { projectRoutes } from "./routes/projects.ts";
import { registryRoutes } from "./routes/registries.ts";
import { tokenRoutes } from "./routes/tokens.ts";

const ABOUT =
  "Machines from OCI images on your own hosts. Every POST takes an `Idempotency-Key`: for " +
  "24 hours the same key with the same request is answered as the first was.";

/** A caller's own id is taken over when it looks like one. */
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

export function createApp(deps: HttpDeps, version: string): App {
  const app = new OpenAPIHono<Env>({
    defaultHook: (result) => {
      if (!result.success) throw fromIssues(result.error);
    },
  });
  app.use(async (c, next) => {
    const given = c.req.header("x-request-id") ?? "";
    const requestId = REQUEST_ID.test(given) ? given : RequestId.create();
    c.set("requestId", requestId);
    c.header("x-request-id", requestId);
    await next();
  });
  internalRoutes(app, deps.internal, deps.shutdown);
  const metrics = new Metrics(deps);
  app.use(metrics.middleware());
  const tokens = new TokenDirectory(deps);
  // Before the body is read: what has no token costs nothing.
  app.use(authenticate(deps, tokens), audited(deps), minimum());
  const limit = bodyLimit({
    maxSize: LIMITS.requestBodyBytes,
    onError: () => {
      throw new LvError("BAD_REQUEST", `The body is larger than ${LIMITS.requestBodyBytes} bytes`);
    },
  });
  // An archive is passed on as it comes, and its agent has a bound for it.
  app.use((c, next) => (c.req.path === LOAD_PATH ? next() : limit(c, next)));
  app.use(idempotent(deps));
  app.onError((error, c) => errorResponse(error, c.get("requestId"), deps.log));
  app.notFound((c) =>
    errorResponse(
      new LvError("NOT_FOUND", `No route ${c.req.method} ${c.req.path}`),
      c.get("requestId"),
      deps.log,
    ),
  );
  healthRoutes(app, deps);
  machineRoutes(app, deps);
  machineConfigRoutes(app, deps);
  logRoutes(app, deps);
  machineMetricsRoutes(app, deps);
  eventRoutes(app, deps);
  // Before /v1/hosts/{id}: "tokens" is no host.
  enrolmentRoutes(app, deps);
  hostRoutes(app, deps);
  imageRoutes(app, deps);
  imageLoadRoutes(app, deps);
  registryRoutes(app, deps);
  tokenRoutes(app, deps, tokens);
  projectRoutes(app, deps, tokens);
  auditRoutes(app, deps);
  app.openAPIRegistry.registerComponent("securitySchemes", "token", {
    type: "http",
    scheme: "bearer",
    description: "An API token, lvt_…; `leveret-project` chooses the project of a fleet token",
  });
  const about = {
    openapi: "3.1.0",
    security: [{ token: [] }],
    info: { title: "Leveret", version, description: ABOUT },
  };
  systemRoutes(app, metrics, () => app.getOpenAPI31Document(about));
  app.doc31("/openapi.json", about);
  return app;
}
