/** What the control plane's answers become here. */
import { z } from "zod";
import { LvError, REASONS, isReason } from "../proto/errors.ts";
import { ErrorBody } from "../proto/rest.ts";

export function unreadable(what: string, cause: z.ZodError): LvError {
  return new LvError(
    "INTERNAL",
    `The control plane's ${what} cannot be read: is it of another version? ${z.prettifyError(cause).slice(0, 300)}`,
    { cause },
  );
}

/** The body's reason when the table has it; otherwise the best that the status says. */
export function errorFrom(status: number, text: string): LvError {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = null;
  }
  const parsed = ErrorBody.safeParse(body);
  if (!parsed.success)
    return new LvError("INTERNAL", `The control plane answered ${status}: ${text.slice(0, 200)}`);
  const { reason, message } = parsed.data.error;
  if (isReason(reason)) return new LvError(reason, message);
  const fallback =
    Object.entries(REASONS).find(([, row]) => row.http === status)?.[0] ?? "INTERNAL";
  return new LvError(isReason(fallback) ? fallback : "INTERNAL", `${reason}: ${message}`);
}

/** Throws INTERNAL when the body is of another shape. */
export function parsed<T>(what: string, shape: z.ZodType<T>, body: unknown): T {
  const result = shape.safeParse(body);
  if (!result.success) throw unreadable(what, result.error);
  return result.data;
}
