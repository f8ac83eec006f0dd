import { index, pgTable, text, timestamp } from "drizzle-orm/pg-core";

/** A token is spent on one key; the row is kept for a while, so that a lost answer can be asked for again. */
export const joinTokens = pgTable(
  "join_tokens",
  {
    id: text("id").primaryKey(),
    /** SHA-256 of the secret, hex. */
    secretHash: text("secret_hash").notNull(),
    expiresAt: timestamp("expires_at", { withTimezone: true }).notNull(),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
    usedAt: timestamp("used_at", { withTimezone: true }),
    /** SHA-256 of the key (SubjectPublicKeyInfo) it was spent on, hex. */
    keyHash: text("key_hash"),
  },
  (table) => [index("join_tokens_expires").on(table.expiresAt)],
);
export type JoinTokenRow = typeof joinTokens.$inferSelect;
