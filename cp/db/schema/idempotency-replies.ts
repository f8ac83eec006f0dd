import { index, integer, pgTable, primaryKey, text, timestamp } from "drizzle-orm/pg-core";
import { bytes } from "./authority.ts";

/**
 * What a POST under an Idempotency-Key was answered; kept for 24 hours. Without a
 * status the request is still being handled, or its process died while it was.
 */
export const idempotencyReplies = pgTable(
  "idempotency_replies",
  {
    projectId: text("project_id").notNull(),
    key: text("key").notNull(),
    /** SHA-256 of method, path and body, in hex. */
    requestHash: text("request_hash").notNull(),
    /** The request that holds the key. */
    requestId: text("request_id").notNull(),
    status: integer("status"),
    /** Sealed: an answer may be a new token. */
    body: bytes("body"),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [
    primaryKey({ name: "idempotency_replies_project", columns: [table.projectId, table.key] }),
    index("idempotency_replies_created").on(table.createdAt),
  ],
);
export type ReplyRow = typeof idempotencyReplies.$inferSelect;
