/**
 * Who asks, and whether they may. Every path but the health checks needs a token;
 * what else a route needs is said beside the route, by `guard`, and stands in the
 * document. Without a guard GET needs `read` and everything
 * else `write`.
 */
import type { MiddlewareHandler } from "hono";
import { LIMITS } from "../../lib/limits.ts";
import { TokenBuckets } from "../../lib/token-bucket.ts";
import { LvError } from "../../proto/errors.ts";
import { AuditId, DEFAULT_PROJECT } from "../../proto/ids.ts";
import { missing, type Access, type Principal } from "../core/access.ts";
import { insertAudit } from "../db/queries/audit.ts";
import type { TokenRow } from "../db/schema/tokens.ts";
import { projectOf } from "../ops/projects.ts";
import type { TokenDirectory } from "../ops/tokens.ts";
import type { Env, HttpDeps } from "./deps.ts";

export const OPEN_PATHS: readonly string[] = ["/healthz", "/readyz"];
/** Read by people in a browser, which knows Basic only; the token is its password. */
const BROWSER_PATHS: readonly string[] = ["/docs", "/openapi.json"];
const READING = new Set(["GET", "HEAD", "OPTIONS"]);
export const PROJECT_HEADER = "leveret-project";

export function authenticate(deps: HttpDeps, tokens: TokenDirectory): MiddlewareHandler<Env> {
  const buckets = new TokenBuckets(LIMITS.requestsPerSecond, LIMITS.requestsBurst);
  return async (c, next) => {
    const { path } = c.req;
    if (OPEN_PATHS.includes(path)) return next();
    const row = await tokens.check(
      presented(c.req.header("authorization"), BROWSER_PATHS.includes(path)),
    );
    const waitMs = buckets.take(row.id, deps.clock.now());
    if (waitMs > 0)
      throw new LvError(
        "LIMIT_EXCEEDED",
        `More than ${LIMITS.requestsPerSecond} requests a second with one token`,
        { meta: { retryAfterS: Math.ceil(waitMs / 1000) } },
      );
    const principal = await principalOf(deps, row, c.req.header(PROJECT_HEADER));
    c.set("principal", principal);
    await next();
  };
}

/** After `authenticate`: what changes something is written down, refusals too. */
export function audited(deps: HttpDeps): MiddlewareHandler<Env> {
  return async (c, next) => {
    const { path, method } = c.req;
    if (READING.has(method) || OPEN_PATHS.includes(path)) return next();
    // An error further in has become a response when this returns.
    await next();
    const { projectId, tokenId } = c.get("principal");
    await insertAudit(deps.database.db, {
      id: AuditId.create(),
      projectId,
      tokenId,
      requestId: c.get("requestId"),
      method,
      path: path.slice(0, 1024).replaceAll("\0", ""),
      status: c.res.status,
    });
  };
}

/** What a route without a guard needs. */
export function minimum(): MiddlewareHandler<Env> {
  return async (c, next) => {
    if (!READING.has(c.req.method) && !OPEN_PATHS.includes(c.req.path))
      demand(c.get("principal"), "write");
    await next();
  };
}

/** Throws UNAUTHENTICATED. */
function presented(header: string | undefined, basic: boolean): string {
  const [scheme = "", value = ""] = (header ?? "").split(" ", 2);
  if (scheme.toLowerCase() === "bearer" && value !== "") return value;
  if (basic && scheme.toLowerCase() === "basic")
    return Buffer.from(value, "base64").toString("utf8").split(":").slice(1).join(":");
  throw new LvError(
    "UNAUTHENTICATED",
    'A token is needed: send "Authorization: Bearer lvt_…"; lev reads it from LEVERET_TOKEN',
    { meta: { challenge: basic ? 'Basic realm="leveret"' : "Bearer" } },
  );
}

/** Throws NOT_FOUND for a project that is not there or not the token's. */
async function principalOf(
  deps: HttpDeps,
  row: TokenRow,
  reference: string | undefined,
): Promise<Principal> {
  const own = row.projectId ?? DEFAULT_PROJECT;
  const who = { tokenId: row.id, scope: row.scope, fleet: row.projectId === null };
  if (reference === undefined || reference === own) return { ...who, projectId: own };
  const project = await projectOf(deps, reference);
  if (!who.fleet && project.id !== own)
    throw new LvError("NOT_FOUND", `No project "${reference.slice(0, 80)}"`);
  return { ...who, projectId: project.id };
}

/** Throws PERMISSION_DENIED, naming what is missing. */
export function demand(principal: Principal, access: Access): void {
  const lack = missing(principal, access);
  if (lack !== null) throw new LvError("PERMISSION_DENIED", `This needs ${lack}`);
}

/** Spread into createRoute: enforces, and says in the document, what the route needs. */
export function guard(access: Access) {
  const middleware: MiddlewareHandler<Env> = async (c, next) => {
    demand(c.get("principal"), access);
    await next();
  };
  return { middleware, security: [{ token: [access] }] };
}
