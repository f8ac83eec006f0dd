import { Host } from "../../../proto/rest.ts";
import { listHosts } from "../../db/queries/hosts.ts";
import { countByHost } from "../../db/queries/machines.ts";
import { findHost } from "../../ops/find.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";
import { hostView } from "../view.ts";

const list = createRoute({
  method: "get",
  path: "/v1/hosts",
  summary: "Every host that ever registered, oldest first",
  responses: { 200: json(z.array(Host), "Hosts"), default: failure },
  ...guard("fleet_read"),
});

const get = createRoute({
  method: "get",
  path: "/v1/hosts/{id}",
  summary: "One host",
  request: { params: z.object({ id: z.string().min(1).max(256) }) },
  responses: { 200: json(Host, "The host"), default: failure },
  ...guard("fleet_read"),
});

export function hostRoutes(app: App, deps: HttpDeps): void {
  app.openapi(list, async (c) => {
    const { db } = deps.database;
    const [rows, counts] = await Promise.all([listHosts(db), countByHost(db)]);
    return c.json(
      rows.map((row) => hostView(row, counts.get(row.id) ?? 0)),
      200,
    );
  });

  app.openapi(get, async (c) => {
    const row = await findHost(deps, c.req.valid("param").id);
    const counts = await countByHost(deps.database.db);
    return c.json(hostView(row, counts.get(row.id) ?? 0), 200);
  });
}
