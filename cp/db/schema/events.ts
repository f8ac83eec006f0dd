import { sql } from "drizzle-orm";
import { bigint, bigserial, index, pgTable, text, timestamp } from "drizzle-orm/pg-core";
import { DEFAULT_PROJECT } from "../../../proto/ids.ts";
import type { MachineState } from "../../../proto/states.ts";

/** A machine's history, appended in the transaction that makes it true. */
export const events = pgTable(
  "events",
  {
    id: text("id").primaryKey(),
    sequence: bigserial("sequence", { mode: "number" }).notNull(),
    /**
     * The transaction that wrote it. Sequences are handed out before commit, so a reader
     * that follows them may pass by one that commits late; (xid, sequence) below the oldest
     * running transaction never changes any more.
     */
    xid: bigint("xid", { mode: "number" })
      .notNull()
      .default(sql`(pg_current_xact_id()::text)::bigint`),
    projectId: text("project_id").notNull().default(DEFAULT_PROJECT),
    machineId: text("machine_id").notNull(),
    type: text("type").notNull(),
    status: text("status").$type<MachineState>().notNull(),
    source: text("source").$type<"user" | "host" | "system">().notNull(),
    reason: text("reason"),
    message: text("message"),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [
    index("events_machine").on(table.machineId, table.sequence),
    index("events_feed").on(table.xid, table.sequence),
    index("events_created").on(table.createdAt),
  ],
);
export type EventRow = typeof events.$inferSelect;
