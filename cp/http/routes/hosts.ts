import { DrainHostRequest, Host } from "../../../proto/rest.ts";
import { pageOfHosts } from "../../db/queries/hosts.ts";
import { countByHost } from "../../db/queries/machines.ts";
import type { HostRow } from "../../db/schema/hosts.ts";
import { cordon } from "../../ops/fleet.ts";
import { findHost } from "../../ops/find.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { nextPage, Page, page } from "../pages.ts";
import { createRoute, failure, json, z } from "../schemas.ts";
import { hostView } from "../view.ts";

const list = createRoute({
  method: "get",
  path: "/v1/hosts",
  summary: "Every host that ever registered, oldest first",
  request: { query: Page },
  responses: { 200: page(Host, "Hosts"), default: failure },
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

const Reference = z.object({ id: z.string().min(1).max(256) });
const response = json(Host, "The host");

const cordonHost = createRoute({
  method: "post",
  path: "/v1/hosts/{id}/cordon",
  summary: "Keep new runs away from the host",
  request: { params: Reference },
  responses: { 200: response, default: failure },
  ...guard("fleet_admin"),
});

const uncordonHost = createRoute({
  method: "post",
  path: "/v1/hosts/{id}/uncordon",
  summary: "Let the host take runs again, and end its draining",
  request: { params: Reference },
  responses: { 200: response, default: failure },
  ...guard("fleet_admin"),
});

const drainHost = createRoute({
  method: "post",
  path: "/v1/hosts/{id}/drain",
  summary: "Cordon the host, and move or stop its machines before a deadline",
  request: {
    params: Reference,
    body: { required: false, content: { "application/json": { schema: DrainHostRequest } } },
  },
  responses: { 200: response, default: failure },
  ...guard("fleet_admin"),
});

export function hostRoutes(app: App, deps: HttpDeps): void {
  app.openapi(list, async (c) => {
    const { db } = deps.database;
    const { limit, cursor } = c.req.valid("query");
    const [rows, counts] = await Promise.all([pageOfHosts(db, { limit, cursor }), countByHost(db)]);
    nextPage(c, rows, limit, (row) => row.id);
    return c.json(
      rows.map((row) => hostView(row, counts.get(row.id) ?? 0)),
      200,
    );
  });

  const show = async (row: HostRow): Promise<Host> => {
    const counts = await countByHost(deps.database.db);
    return hostView(row, counts.get(row.id) ?? 0);
  };

  app.openapi(cordonHost, async (c) => {
    const change = { cordoned: true, drain: null };
    return c.json(await show(await cordon(deps, c.req.valid("param").id, change)), 200);
  });

  app.openapi(uncordonHost, async (c) => {
    const change = { cordoned: false, drain: null };
    return c.json(await show(await cordon(deps, c.req.valid("param").id, change)), 200);
  });

  app.openapi(drainHost, async (c) => {
    const body: z.input<typeof DrainHostRequest> = c.req.valid("json") ?? {};
    const drain = { mode: body.mode ?? "move", deadlineS: body.deadline ?? 300 };
    const change = { cordoned: true, drain };
    return c.json(await show(await cordon(deps, c.req.valid("param").id, change)), 200);
  });

  app.openapi(get, async (c) => {
    const row = await findHost(deps, c.req.valid("param").id);
    const counts = await countByHost(deps.database.db);
    return c.json(hostView(row, counts.get(row.id) ?? 0), 200);
  });
}
