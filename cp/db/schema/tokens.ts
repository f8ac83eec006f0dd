import { index, pgTable, text, timestamp } from "drizzle-orm/pg-core";
import type { Scope } from "../../../proto/rest.ts";

/** API tokens. The secret itself is shown once and never stored. */
export const tokens = pgTable(
  "tokens",
  {
    id: text("id").primaryKey(),
    /** Null: a fleet token, good for every project and for the hosts. */
    projectId: text("project_id"),
    name: text("name").notNull(),
    scope: text("scope").$type<Scope>().notNull(),
    /** SHA-256 of the whole token, in hex. It has 160 random bits: no salt is needed. */
    hash: text("hash").notNull().unique("tokens_hash"),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
    expiresAt: timestamp("expires_at", { withTimezone: true }),
    revokedAt: timestamp("revoked_at", { withTimezone: true }),
    /** To the minute. */
    lastUsedAt: timestamp("last_used_at", { withTimezone: true }),
  },
  (table) => [index("tokens_project").on(table.projectId)],
);
export type TokenRow = typeof tokens.$inferSelect;
