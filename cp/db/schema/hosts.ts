import {
  bigint,
  boolean,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
} from "drizzle-orm/pg-core";
import type { HostState } from "../../../proto/states.ts";

/**
 * One row per host that ever registered. `epoch` grows with each stream that
 * registers; whatever is written for a stream says `AND epoch = …`.
 * `committed_*` caches the sums over placements and changes under this row's lock.
 */
export const hosts = pgTable(
  "hosts",
  {
    id: text("id").primaryKey(),
    hostname: text("hostname").notNull(),
    state: text("state").$type<HostState>().notNull(),
    arch: text("arch").notNull(),
    kvm: text("kvm").$type<"direct" | "lab">().notNull(),
    version: text("version").notNull(),
    labels: jsonb("labels").$type<Record<string, string>>().notNull(),
    /** Of the host's kernel: a change means that every process there is gone. */
    bootId: text("boot_id").notNull(),
    epoch: bigint("epoch", { mode: "number" }).notNull(),
    /** The control plane process that holds the stream; null when none does. */
    ownerReplica: text("owner_replica"),
    capacityCpus: integer("capacity_cpus").notNull(),
    capacityMemoryMib: bigint("capacity_memory_mib", { mode: "number" }).notNull(),
    capacityDiskMib: bigint("capacity_disk_mib", { mode: "number" }).notNull(),
    committedCpus: integer("committed_cpus").notNull().default(0),
    committedMemoryMib: bigint("committed_memory_mib", { mode: "number" }).notNull().default(0),
    committedDiskMib: bigint("committed_disk_mib", { mode: "number" }).notNull().default(0),
    cordoned: boolean("cordoned").notNull().default(false),
    /** What becomes of its machines; null = it is not being drained. */
    drainMode: text("drain_mode").$type<"move" | "stop">(),
    drainDeadline: timestamp("drain_deadline", { withTimezone: true }),
    /** Starts in a row that failed by the host's own fault. */
    startFailures: integer("start_failures").notNull().default(0),
    quarantinedUntil: timestamp("quarantined_until", { withTimezone: true }),
    lastSeenAt: timestamp("last_seen_at", { withTimezone: true }),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [index("hosts_state").on(table.state)],
);
export type HostRow = typeof hosts.$inferSelect;
