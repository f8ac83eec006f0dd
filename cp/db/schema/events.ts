import { bigserial, index, pgTable, text, timestamp } from "drizzle-orm/pg-core";
import type { MachineState } from "../../../proto/states.ts";

/** A machine's history, appended in the transaction that makes it true. */
export const events = pgTable(
  "events",
  {
    id: text("id").primaryKey(),
    sequence: bigserial("sequence", { mode: "number" }).notNull(),
    machineId: text("machine_id").notNull(),
    type: text("type").notNull(),
    status: text("status").$type<MachineState>().notNull(),
    source: text("source").$type<"user" | "host" | "system">().notNull(),
    reason: text("reason"),
    message: text("message"),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [index("events_machine").on(table.machineId, table.sequence)],
);
export type EventRow = typeof events.$inferSelect;
