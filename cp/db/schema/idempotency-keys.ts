import { pgTable, text, timestamp } from "drizzle-orm/pg-core";

/** Written in the transaction of the request that it makes repeatable. */
export const idempotencyKeys = pgTable("idempotency_keys", {
  key: text("key").primaryKey(),
  /** SHA-256 of the request, in hex: the same key with another body is refused. */
  requestHash: text("request_hash").notNull(),
  machineId: text("machine_id").notNull(),
  createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
});
