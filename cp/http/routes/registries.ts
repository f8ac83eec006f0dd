import { Registry, RegistryLogin } from "../../../proto/rest-images.ts";
import { listRegistries } from "../../db/queries/registries.ts";
import type { RegistryRow } from "../../db/schema/registries.ts";
import { forgetRegistry } from "../../ops/registries.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";

const list = createRoute({
  method: "get",
  path: "/v1/registries",
  summary: "The registries that the project has credentials for",
  responses: { 200: json(z.array(Registry), "Registries, without passwords"), default: failure },
  ...guard("read"),
});

const login = createRoute({
  method: "post",
  path: "/v1/registries",
  summary: "Keep the project's credentials for a registry, or replace them",
  description:
    "The password is stored encrypted and goes to a host only with an operation that needs it. It is tried at the next pull.",
  request: {
    body: { required: true, content: { "application/json": { schema: RegistryLogin } } },
  },
  responses: { 200: json(Registry, "The registry"), default: failure },
  ...guard("admin"),
});

const logout = createRoute({
  method: "delete",
  path: "/v1/registries/{id}",
  summary: "Forget the project's credentials for a registry",
  request: { params: z.object({ id: z.string().min(1).max(255) }) },
  responses: { 200: json(Registry, "The registry"), default: failure },
  ...guard("admin"),
});

export function registryRoutes(app: App, deps: HttpDeps): void {
  app.openapi(list, async (c) => {
    const rows = await listRegistries(deps.database.db, c.get("principal").projectId);
    return c.json(rows.map(view), 200);
  });

  app.openapi(login, async (c) => {
    const row = await deps.secrets.store(deps, c.get("principal"), c.req.valid("json"));
    return c.json(view(row), 200);
  });

  app.openapi(logout, async (c) => {
    const row = await forgetRegistry(deps, c.get("principal"), c.req.valid("param").id);
    return c.json(view(row), 200);
  });
}

function view({ registry, username, updatedAt }: RegistryRow): Registry {
  return { registry, username, updated_at: updatedAt.toISOString() };
}
