import { bigserial, index, integer, pgTable, text, timestamp } from "drizzle-orm/pg-core";

/** Who asked for what: one row per request that changes something, refused ones included. */
export const audit = pgTable(
  "audit",
  {
    id: text("id").primaryKey(),
    sequence: bigserial("sequence", { mode: "number" }).notNull(),
    projectId: text("project_id").notNull(),
    tokenId: text("token_id").notNull(),
    requestId: text("request_id").notNull(),
    method: text("method").notNull(),
    path: text("path").notNull(),
    status: integer("status").notNull(),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [
    index("audit_project").on(table.projectId, table.sequence),
    index("audit_created").on(table.createdAt),
  ],
);
export type AuditRow = typeof audit.$inferSelect;
