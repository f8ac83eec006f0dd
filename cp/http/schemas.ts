/** Parameters and responses that several routes share. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { ErrorBody, Machine } from "../../proto/rest.ts";

export const MachineRef = z.object({
  id: z
    .string()
    .min(1)
    .max(128)
    .meta({
      description: "Id, name, or a beginning of the id that only one machine has",
      param: { name: "id", in: "path" },
    }),
});

export function json<T extends z.ZodType>(schema: T, description: string) {
  return { description, content: { "application/json": { schema } } };
}

export const NONCE_HEADER = "leveret-machine-lease-nonce";

/** For whoever changes a machine that may be leased. */
export const LeaseNonce = z.object({
  [NONCE_HEADER]: z.string().max(256).optional().meta({ description: "Needed while it is leased" }),
});

/** Every route answers errors with the same body. */
export const failure = json(ErrorBody, "Error: `reason` is a row of the error table");

export const machineResponse = json(Machine, "The machine");

export function nonce(c: Context): string | undefined {
  return c.req.header(NONCE_HEADER);
}

export { createRoute, z };
