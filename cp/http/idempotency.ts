/**
 * Idempotency-Key on every POST, for 24 hours: the request is handled once and
 * whoever repeats it is given the first one's answer. A request that failed gives its
 * key back. Creating a machine has a stronger promise of its own, in one transaction
 * with the machine (ops/create-machine.ts); here a process that dies between the act
 * and the answer leaves the key taken for a minute, and after that the act is repeated.
 * A request that takes longer says meanwhile that it lives.
 *
 * An archive is passed on as it comes, so its bytes cannot be compared before it is taken:
 * its length is, where the request tells it. A repetition is answered without reading it.
 */
import type { HonoRequest, MiddlewareHandler } from "hono";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { claimReply, releaseReply, renewReply, storeReply } from "../db/queries/idempotency.ts";
import type { ReplyRow } from "../db/schema/idempotency-replies.ts";
import { seal, unseal } from "../ops/seal.ts";
import type { Env, HttpDeps } from "./deps.ts";
import { LOAD_PATH } from "./routes/image-load.ts";

export const IDEMPOTENCY_HEADER = "idempotency-key";
export const REPLAYED_HEADER = "idempotent-replayed";
/** Has a key of its own. */
const CREATE_PATH = "/v1/machines";
const PURPOSE = "idempotency reply";
const KEY = /^[\x20-\x7e]{1,256}$/;

export function idempotent(
  deps: Pick<HttpDeps, "database" | "log" | "secretKey">,
  abandonedS: number = LIMITS.idempotencyAbandonedS,
): MiddlewareHandler<Env> {
  const { db } = deps.database;
  return async (c, next) => {
    const key = c.req.header(IDEMPOTENCY_HEADER);
    if (key === undefined || c.req.method !== "POST" || c.req.path === CREATE_PATH) return next();
    if (!KEY.test(key))
      throw new LvError("BAD_REQUEST", "Idempotency-Key: 1 to 256 printable ASCII characters");
    const { projectId } = c.get("principal");
    const claim = { projectId, key, requestId: c.get("requestId") };
    const requestHash = await hashOf(c.req);
    const earlier = await claimReply(db, { ...claim, requestHash }, abandonedS);
    if (earlier !== null) {
      c.res = replay(earlier, requestHash, deps.secretKey(), c.get("requestId"));
      return;
    }
    const renewal = setInterval(
      () =>
        void renewReply(db, claim).catch((err: unknown) =>
          deps.log.warn({ err }, "cannot renew an idempotency key"),
        ),
      (abandonedS * 1_000) / 3,
    );
    try {
      await next();
    } finally {
      clearInterval(renewal);
    }
    const { status } = c.res;
    if (status >= 400 || c.get("unfinished") === true) return releaseReply(db, claim);
    const body = await c.res.clone().text();
    await storeReply(db, claim, { status, body: seal(deps.secretKey(), PURPOSE, body) });
  };
}

async function hashOf(request: HonoRequest): Promise<string> {
  const { pathname, search } = new URL(request.url);
  const hash = new Bun.CryptoHasher("sha256").update(`${pathname}${search}\0`);
  if (request.path === LOAD_PATH) hash.update(request.header("content-length") ?? "");
  else hash.update(await request.arrayBuffer());
  return hash.digest("hex");
}

function replay(row: ReplyRow, requestHash: string, secretKey: Uint8Array, requestId: string) {
  if (row.requestHash !== requestHash)
    throw new LvError(
      "IDEMPOTENCY_MISMATCH",
      `Idempotency-Key "${row.key}" was used for another request`,
    );
  if (row.status === null || row.body === null)
    throw new LvError(
      "STATE_CONFLICT",
      `A request with the Idempotency-Key "${row.key}" is being handled: ask again`,
    );
  const text = unseal(secretKey, PURPOSE, row.body);
  if (text === null)
    throw new LvError("INTERNAL", "A stored answer was sealed with another secret key");
  return new Response(row.status === 204 ? null : text, {
    status: row.status,
    headers: {
      "content-type": "application/json",
      "x-request-id": requestId,
      [REPLAYED_HEADER]: "true",
    },
  });
}
