/** Parameters and responses that several routes share. */
import { createRoute, z } from "@hono/zod-openapi";
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

/** Every route answers errors with the same body. */
export const failure = json(ErrorBody, "Error: `reason` is a row of the error table");

export const machineResponse = json(Machine, "The machine");

export { createRoute, z };
