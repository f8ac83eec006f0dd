import { index, pgTable, primaryKey, text, timestamp } from "drizzle-orm/pg-core";
import { DEFAULT_PROJECT } from "../../../proto/ids.ts";

/** Written in the transaction of the request that it makes repeatable; kept for 24 hours. */
export const idempotencyKeys = pgTable(
  "idempotency_keys",
  {
    projectId: text("project_id").notNull().default(DEFAULT_PROJECT),
    key: text("key").notNull(),
    /** SHA-256 of the request, in hex: the same key with another body is refused. */
    requestHash: text("request_hash").notNull(),
    machineId: text("machine_id").notNull(),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [
    primaryKey({ name: "idempotency_keys_project", columns: [table.projectId, table.key] }),
    index("idempotency_keys_created").on(table.createdAt),
  ],
);
