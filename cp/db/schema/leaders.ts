import { bigint, pgTable, text, timestamp } from "drizzle-orm/pg-core";

/** Work that one replica does for all. The term grows with each change of hands. */
export const leaders = pgTable("leaders", {
  work: text("work").primaryKey(),
  replicaId: text("replica_id").notNull(),
  term: bigint("term", { mode: "number" }).notNull(),
  leaseUntil: timestamp("lease_until", { withTimezone: true }).notNull(),
});
