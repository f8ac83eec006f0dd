import { bigint, integer, pgTable, text, timestamp } from "drizzle-orm/pg-core";

/** Who machines, tokens and keys belong to. A quota of null is none. */
export const projects = pgTable("projects", {
  id: text("id").primaryKey(),
  name: text("name").notNull().unique("projects_name"),
  quotaMachines: integer("quota_machines"),
  quotaCpus: integer("quota_cpus"),
  quotaMemoryMib: bigint("quota_memory_mib", { mode: "number" }),
  quotaDiskMib: bigint("quota_disk_mib", { mode: "number" }),
  createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
});
export type ProjectRow = typeof projects.$inferSelect;
