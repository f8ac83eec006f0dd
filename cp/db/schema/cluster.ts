import { integer, pgTable, text } from "drizzle-orm/pg-core";

/** One row: what the replicas know and nobody else does. */
export const cluster = pgTable("cluster", {
  /** Always 1. */
  id: integer("id").primaryKey(),
  /** Bearer of requests from replica to replica, 64 hexadecimal digits. */
  secret: text("secret").notNull(),
});
