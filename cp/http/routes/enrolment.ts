import { CreateJoinTokenRequest, CreatedJoinToken, RevokedHost } from "../../../proto/rest.ts";
import { findHost } from "../../ops/find.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";

const token = createRoute({
  method: "post",
  path: "/v1/hosts/tokens",
  summary: "Make a join token: one host becomes part of the fleet with it",
  request: {
    body: { required: false, content: { "application/json": { schema: CreateJoinTokenRequest } } },
  },
  responses: { 201: json(CreatedJoinToken, "The token, shown this once"), default: failure },
  ...guard("fleet_admin"),
});

const revoke = createRoute({
  method: "post",
  path: "/v1/hosts/{id}/revoke",
  summary: "Take a host's certificate away: its stream ends and it cannot come back",
  request: { params: z.object({ id: z.string().min(1).max(256) }) },
  responses: { 200: json(RevokedHost, "What was revoked"), default: failure },
  ...guard("fleet_admin"),
});

export function enrolmentRoutes(app: App, deps: HttpDeps): void {
  app.openapi(token, async (c) => {
    const { expires_in } = CreateJoinTokenRequest.parse(c.req.valid("json") ?? {});
    const made = await deps.hosts.issueJoinToken(expires_in);
    return c.json(
      { id: made.id, token: made.token, expires_at: made.expiresAt.toISOString() },
      201,
    );
  });

  app.openapi(revoke, async (c) => {
    const { id } = await findHost(deps, c.req.valid("param").id);
    return c.json({ host_id: id, keys: await deps.hosts.revoke(id) }, 200);
  });
}
