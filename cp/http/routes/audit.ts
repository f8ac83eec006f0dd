import { LIMITS } from "../../../lib/limits.ts";
import { AuditEntry } from "../../../proto/rest.ts";
import { listAudit } from "../../db/queries/audit.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { nextPage, page } from "../pages.ts";
import { createRoute, failure, z } from "../schemas.ts";

const Cursor = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

const list = createRoute({
  method: "get",
  path: "/v1/audit",
  summary: "Requests that changed something or tried to, newest first",
  request: {
    query: z.object({
      limit: z.coerce.number().int().min(1).max(LIMITS.listMax).default(100),
      cursor: Cursor.optional(),
    }),
  },
  responses: { 200: page(AuditEntry, "Entries"), default: failure },
  ...guard("admin"),
});

export function auditRoutes(app: App, deps: HttpDeps): void {
  app.openapi(list, async (c) => {
    const { limit, cursor } = c.req.valid("query");
    const { fleet, projectId } = c.get("principal");
    const rows = await listAudit(deps.database.db, {
      projectId: fleet ? null : projectId,
      before: cursor ?? null,
      limit,
    });
    nextPage(c, rows, limit, (row) => String(row.sequence));
    return c.json(
      rows.map((row) => ({
        id: row.id,
        time: row.createdAt.toISOString(),
        project_id: row.projectId,
        token_id: row.tokenId,
        request_id: row.requestId,
        method: row.method,
        path: row.path,
        status: row.status,
      })),
      200,
    );
  });
}
