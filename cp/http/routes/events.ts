import { LIMITS } from "../../../lib/limits.ts";
import { MachineEventBody } from "../../../proto/rest.ts";
import { listEvents } from "../../db/queries/events.ts";
import { findMachine } from "../../ops/find.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, MachineRef, z } from "../schemas.ts";
import { eventView } from "../view.ts";

const list = createRoute({
  method: "get",
  path: "/v1/machines/{id}/events",
  summary: "What happened to the machine, newest first",
  request: {
    params: MachineRef,
    query: z.object({ limit: z.coerce.number().int().min(1).max(LIMITS.listMax).default(100) }),
  },
  responses: { 200: json(z.array(MachineEventBody), "Events"), default: failure },
  ...guard("read"),
});

export function eventRoutes(app: App, deps: HttpDeps): void {
  app.openapi(list, async (c) => {
    const { id } = await findMachine(deps, c.get("principal").projectId, c.req.valid("param").id);
    const rows = await listEvents(deps.database.db, id, c.req.valid("query").limit);
    return c.json(rows.map(eventView), 200);
  });
}
