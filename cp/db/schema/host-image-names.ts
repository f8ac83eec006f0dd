import { pgTable, primaryKey, text } from "drizzle-orm/pg-core";

/** Which hosts have an image of that name or digest: what placement asks for each new machine. */
export const hostImageNames = pgTable(
  "host_image_names",
  {
    name: text("name").notNull(),
    hostId: text("host_id").notNull(),
  },
  (table) => [primaryKey({ columns: [table.name, table.hostId] })],
);
