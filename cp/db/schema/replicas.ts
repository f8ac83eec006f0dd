import { pgTable, text, timestamp } from "drizzle-orm/pg-core";

/**
 * The control planes that share this database. Hosts whose owner has no lease (any
 * more) belong to nobody; all times are the database's.
 */
export const replicas = pgTable("replicas", {
  id: text("id").primaryKey(),
  /** Where the other replicas reach its HTTP listener. */
  url: text("url").notNull(),
  leaseUntil: timestamp("lease_until", { withTimezone: true }).notNull(),
});
