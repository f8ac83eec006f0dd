import { CreateProjectRequest, Project, UpdateProjectRequest } from "../../../proto/rest.ts";
import { listProjects, type QuotaChange } from "../../db/queries/projects.ts";
import type { ProjectRow } from "../../db/schema/projects.ts";
import { createProject, projectOf, removeProject, setQuotas } from "../../ops/projects.ts";
import type { TokenDirectory } from "../../ops/tokens.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";

const Reference = z.object({
  id: z
    .string()
    .min(1)
    .max(128)
    .meta({ description: "Id or name", param: { name: "id", in: "path" } }),
});
const response = json(Project, "The project");

const create = createRoute({
  method: "post",
  path: "/v1/projects",
  summary: "Make a project",
  request: {
    body: { required: true, content: { "application/json": { schema: CreateProjectRequest } } },
  },
  responses: { 201: response, default: failure },
  ...guard("fleet_admin"),
});

const list = createRoute({
  method: "get",
  path: "/v1/projects",
  summary: "The projects that the token is good for",
  responses: { 200: json(z.array(Project), "Projects"), default: failure },
  ...guard("read"),
});

const get = createRoute({
  method: "get",
  path: "/v1/projects/{id}",
  summary: "One project",
  request: { params: Reference },
  responses: { 200: response, default: failure },
  ...guard("fleet_read"),
});

const update = createRoute({
  method: "patch",
  path: "/v1/projects/{id}",
  summary: "Change quotas; those that are not named stay",
  request: {
    params: Reference,
    body: { required: true, content: { "application/json": { schema: UpdateProjectRequest } } },
  },
  responses: { 200: response, default: failure },
  ...guard("fleet_admin"),
});

const remove = createRoute({
  method: "delete",
  path: "/v1/projects/{id}",
  summary: "Remove a project without machines, and revoke its tokens",
  request: { params: Reference },
  responses: { 200: response, default: failure },
  ...guard("fleet_admin"),
});

export function projectRoutes(app: App, deps: HttpDeps, directory: TokenDirectory): void {
  app.openapi(create, async (c) => {
    const { name, quotas } = c.req.valid("json");
    return c.json(projectView(await createProject(deps, name, columns(quotas))), 201);
  });

  app.openapi(list, async (c) => {
    const { fleet, projectId } = c.get("principal");
    const rows = await listProjects(deps.database.db);
    return c.json(rows.filter(({ id }) => fleet || id === projectId).map(projectView), 200);
  });

  app.openapi(get, async (c) =>
    c.json(projectView(await projectOf(deps, c.req.valid("param").id)), 200),
  );

  app.openapi(update, async (c) => {
    const { quotas } = c.req.valid("json");
    return c.json(
      projectView(await setQuotas(deps, c.req.valid("param").id, columns(quotas))),
      200,
    );
  });

  app.openapi(remove, async (c) => {
    const row = await removeProject(deps, c.req.valid("param").id);
    directory.forget();
    return c.json(projectView(row), 200);
  });
}

function columns(quotas: z.infer<typeof UpdateProjectRequest>["quotas"] = {}): QuotaChange {
  const { machines, cpus, memory_mb, disk_mb } = quotas;
  return {
    ...(machines === undefined ? {} : { quotaMachines: machines }),
    ...(cpus === undefined ? {} : { quotaCpus: cpus }),
    ...(memory_mb === undefined ? {} : { quotaMemoryMib: memory_mb }),
    ...(disk_mb === undefined ? {} : { quotaDiskMib: disk_mb }),
  };
}

function projectView(row: ProjectRow): Project {
  return {
    id: row.id,
    name: row.name,
    quotas: {
      machines: row.quotaMachines,
      cpus: row.quotaCpus,
      memory_mb: row.quotaMemoryMib,
      disk_mb: row.quotaDiskMib,
    },
    created_at: row.createdAt.toISOString(),
  };
}
