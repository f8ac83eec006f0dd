import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";

const Health = z.object({ status: z.literal("ok") });

const healthz = createRoute({
  method: "get",
  path: "/healthz",
  summary: "The process answers",
  security: [],
  responses: { 200: json(Health, "It does") },
});

const readyz = createRoute({
  method: "get",
  path: "/readyz",
  summary: "The process and its database answer",
  security: [],
  responses: { 200: json(Health, "They do"), default: failure },
});

export function healthRoutes(app: App, deps: HttpDeps): void {
  app.openapi(healthz, (c) => c.json({ status: "ok" as const }, 200));
  app.openapi(readyz, async (c) => {
    await deps.database.ping();
    return c.json({ status: "ok" as const }, 200);
  });
}
