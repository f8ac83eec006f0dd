import { CreatedToken, CreateTokenRequest, Token } from "../../../proto/rest.ts";
import type { TokenRow } from "../../db/schema/tokens.ts";
import { createToken, revoke, visibleTokens, type TokenDirectory } from "../../ops/tokens.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { createRoute, failure, json, z } from "../schemas.ts";

const create = createRoute({
  method: "post",
  path: "/v1/tokens",
  summary: "Make an API token of the project, or of the fleet",
  request: {
    body: { required: true, content: { "application/json": { schema: CreateTokenRequest } } },
  },
  responses: {
    201: json(CreatedToken, "The token; its secret is shown this once"),
    default: failure,
  },
  ...guard("admin"),
});

const list = createRoute({
  method: "get",
  path: "/v1/tokens",
  summary: "The project's tokens, newest first; a fleet token sees them all",
  responses: { 200: json(z.array(Token), "Tokens"), default: failure },
  ...guard("admin"),
});

const remove = createRoute({
  method: "delete",
  path: "/v1/tokens/{id}",
  summary: "Revoke a token: within a second no replica honours it",
  request: { params: z.object({ id: z.string().min(1).max(128) }) },
  responses: { 200: json(Token, "The token"), default: failure },
  ...guard("admin"),
});

export function tokenRoutes(app: App, deps: HttpDeps, directory: TokenDirectory): void {
  app.openapi(create, async (c) => {
    const { name, scope, fleet, expires_in } = c.req.valid("json");
    const { row, secret } = await createToken(deps, c.get("principal"), {
      name,
      scope,
      fleet,
      expiresInS: expires_in ?? null,
    });
    return c.json({ ...tokenView(row), token: secret }, 201);
  });

  app.openapi(list, async (c) => {
    const rows = await visibleTokens(deps, c.get("principal"));
    return c.json(rows.map(tokenView), 200);
  });

  app.openapi(remove, async (c) => {
    const row = await revoke(deps, c.get("principal"), c.req.valid("param").id);
    directory.forget();
    return c.json(tokenView(row), 200);
  });
}

function tokenView(row: TokenRow): Token {
  return {
    id: row.id,
    name: row.name,
    scope: row.scope,
    project_id: row.projectId,
    created_at: row.createdAt.toISOString(),
    expires_at: row.expiresAt?.toISOString() ?? null,
    revoked_at: row.revokedAt?.toISOString() ?? null,
    last_used_at: row.lastUsedAt?.toISOString() ?? null,
  };
}
