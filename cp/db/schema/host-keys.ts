import { sql } from "drizzle-orm";
import { index, pgTable, text, timestamp, uniqueIndex } from "drizzle-orm/pg-core";

/** Which key speaks for a host: one at a time. A revoked key never speaks again. */
export const hostKeys = pgTable(
  "host_keys",
  {
    /** SHA-256 of SubjectPublicKeyInfo, hex. */
    keyHash: text("key_hash").primaryKey(),
    hostId: text("host_id").notNull(),
    enrolledAt: timestamp("enrolled_at", { withTimezone: true }).notNull().defaultNow(),
    /** Of its newest certificate. */
    notAfter: timestamp("not_after", { withTimezone: true }).notNull(),
    revokedAt: timestamp("revoked_at", { withTimezone: true }),
  },
  (table) => [
    uniqueIndex("host_keys_one_per_host")
      .on(table.hostId)
      .where(sql`${table.revokedAt} is null`),
    index("host_keys_revoked").on(table.revokedAt),
  ],
);
export type HostKeyRow = typeof hostKeys.$inferSelect;
