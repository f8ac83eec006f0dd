import { sql } from "drizzle-orm";
import {
  bigint,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
  uniqueIndex,
} from "drizzle-orm/pg-core";
import { DEFAULT_PROJECT } from "../../../proto/ids.ts";
import type { MachineConfig } from "../../../proto/rest.ts";
import type { DesiredState, MachineState } from "../../../proto/states.ts";

/**
 * What is wanted (desired_*, written by requests and the reconciler) beside what
 * the host last said (observed_*, written from its reports). Rows are kept after
 * the machine is destroyed; its name is free as soon as destroying is asked for.
 */
export const machines = pgTable(
  "machines",
  {
    id: text("id").primaryKey(),
    projectId: text("project_id").notNull().default(DEFAULT_PROJECT),
    name: text("name").notNull(),
    config: jsonb("config").$type<MachineConfig>().notNull(),
    /** Of the config, for an index: which hosts have had this image. */
    image: text("image").notNull().default(""),
    /** Of the config, for an index: machines of one group share no host. */
    antiAffinity: text("anti_affinity"),
    imageDigest: text("image_digest"),
    desiredState: text("desired_state").$type<DesiredState>().notNull(),
    /** Grows with each op; a report with a smaller generation speaks of the past. */
    desiredGeneration: bigint("desired_generation", { mode: "number" }).notNull(),
    observedState: text("observed_state").$type<MachineState>().notNull(),
    observedGeneration: bigint("observed_generation", { mode: "number" }).notNull().default(0),
    observedSequence: bigint("observed_sequence", { mode: "number" }).notNull().default(0),
    hostId: text("host_id"),
    /** The newest run that was asked for. */
    incarnation: bigint("incarnation", { mode: "number" }).notNull().default(0),
    statusReason: text("status_reason"),
    statusMessage: text("status_message"),
    exitCode: integer("exit_code"),
    exitSignal: integer("exit_signal"),
    bootUs: bigint("boot_us", { mode: "number" }),
    /** Runs that the restart policy has begun in a row. */
    restarts: integer("restarts").notNull().default(0),
    /** The next run is due then; null = none is. */
    restartAt: timestamp("restart_at", { withTimezone: true }),
    leaseNonce: text("lease_nonce"),
    leaseOwner: text("lease_owner"),
    leaseDescription: text("lease_description"),
    leaseExpiresAt: timestamp("lease_expires_at", { withTimezone: true }),
    version: integer("version").notNull().default(1),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
    updatedAt: timestamp("updated_at", { withTimezone: true }).notNull().defaultNow(),
    startedAt: timestamp("started_at", { withTimezone: true }),
    stoppedAt: timestamp("stopped_at", { withTimezone: true }),
  },
  (table) => [
    uniqueIndex("machines_name")
      .on(table.projectId, table.name)
      .where(sql`${table.desiredState} <> 'destroyed'`),
    index("machines_host").on(table.hostId),
    // Those that have run: without the condition a search passes by all that never did.
    index("machines_image")
      .on(table.image, table.hostId)
      .where(sql`${table.imageDigest} is not null`),
    index("machines_group").on(table.projectId, table.antiAffinity),
    index("machines_pending")
      .on(table.createdAt)
      .where(sql`${table.observedState} = 'pending'`),
    index("machines_restart")
      .on(table.restartAt)
      .where(sql`${table.restartAt} is not null`),
    index("machines_created").on(table.projectId, table.createdAt),
  ],
);
export type MachineRow = typeof machines.$inferSelect;
