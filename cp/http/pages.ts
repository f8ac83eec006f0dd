/** Lists in pages: the body stays an array, the way to the next page is a header. */
import type { Context } from "hono";
import { LIMITS } from "../../lib/limits.ts";
import { json, z } from "./schemas.ts";

export const CURSOR_HEADER = "leveret-next-cursor";

/** Of a list whose cursor is the id of its last entry. */
export const Page = z.object({
  limit: z.coerce.number().int().min(1).max(LIMITS.listMax).default(100),
  cursor: z
    .string()
    .regex(/^[a-z]{2,4}_[0-9a-z]{1,40}$/, "expected a cursor that a page has given")
    .optional()
    .meta({ description: `From the ${CURSOR_HEADER} header of the page before` }),
});

/** A response that is one page of a list. */
export function page<T extends z.ZodType>(item: T, description: string) {
  return {
    ...json(z.array(item), description),
    headers: z.object({
      [CURSOR_HEADER]: z.string().optional().meta({
        description: "Ask again with this `cursor` for what follows; absent on the last page",
      }),
    }),
  };
}

/** A page that is full may be followed by another one. */
export function nextPage<T>(
  c: Context,
  rows: T[],
  limit: number,
  cursorOf: (row: T) => string,
): void {
  const last = rows.at(-1);
  if (last !== undefined && rows.length === limit) c.header(CURSOR_HEADER, cursorOf(last));
}
