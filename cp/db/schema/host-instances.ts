import { integer, jsonb, pgTable, text, timestamp } from "drizzle-orm/pg-core";

/** Which runs of the agent have spoken for a host lately; see core/instances.ts. */
export const hostInstances = pgTable("host_instances", {
  hostId: text("host_id").primaryKey(),
  current: text("current").notNull(),
  /** Those before, newest first. */
  earlier: jsonb("earlier").$type<string[]>().notNull(),
  /** How often one of them has come back. */
  returns: integer("returns").notNull().default(0),
  returnedAt: timestamp("returned_at", { withTimezone: true }),
});
