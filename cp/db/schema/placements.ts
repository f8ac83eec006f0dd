import { bigint, boolean, index, integer, pgTable, text } from "drizzle-orm/pg-core";

/**
 * What a machine holds on its host, and the truth behind hosts.committed_*. The
 * disk is held as long as the row exists, CPU and memory only while `running`.
 */
export const placements = pgTable(
  "placements",
  {
    machineId: text("machine_id").primaryKey(),
    hostId: text("host_id").notNull(),
    cpus: integer("cpus").notNull(),
    memoryMib: bigint("memory_mib", { mode: "number" }).notNull(),
    diskMib: bigint("disk_mib", { mode: "number" }).notNull(),
    running: boolean("running").notNull(),
  },
  (table) => [index("placements_host").on(table.hostId)],
);
export type PlacementRow = typeof placements.$inferSelect;
