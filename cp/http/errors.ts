/** Whatever went wrong, as the REST error body. The cause goes to the log, once, here. */
import { HTTPException } from "hono/http-exception";
import type { z } from "zod";
import type { Log } from "../../lib/log.ts";
import { LvError } from "../../proto/errors.ts";
import type { ErrorBody } from "../../proto/rest.ts";
import { fromDatabase } from "../db/index.ts";

export function toLvError(thrown: unknown): LvError {
  if (thrown instanceof HTTPException)
    return new LvError("BAD_REQUEST", badRequestText(thrown), { cause: thrown });
  return LvError.from(fromDatabase(thrown));
}

function badRequestText(error: HTTPException): string {
  if (error.status === 415) return 'The body must be JSON: send "Content-Type: application/json"';
  return error.message === "" ? "The request is malformed" : error.message;
}

/** `config.guest.cpus: Too big: expected number to be <=8`, one part per issue. */
export function fromIssues(error: z.ZodError): LvError {
  const lines = error.issues.slice(0, 10).map((issue) => {
    const path = issue.path.join(".");
    return path === "" ? issue.message : `${path}: ${issue.message}`;
  });
  return new LvError("BAD_REQUEST", lines.join("; "));
}

export function errorBody(error: LvError, requestId: string): ErrorBody {
  const { httpStatus: code, reason, message } = error;
  return { error: { code, reason, message, requestId } };
}

export function errorResponse(thrown: unknown, requestId: string, log: Log): Response {
  const error = toLvError(thrown);
  const detail = { requestId, reason: error.reason, ...error.meta };
  if (error.httpStatus >= 500) log.error({ ...detail, err: error.cause ?? error }, error.message);
  else log.debug(detail, error.message);
  const headers = new Headers({ "content-type": "application/json", "x-request-id": requestId });
  const { retryAfterS, challenge } = error.meta;
  if (typeof retryAfterS === "number") headers.set("retry-after", String(retryAfterS));
  else if (error.httpStatus === 503) headers.set("retry-after", "1");
  if (typeof challenge === "string") headers.set("www-authenticate", challenge);
  return new Response(JSON.stringify(errorBody(error, requestId)), {
    status: error.httpStatus,
    headers,
  });
}
