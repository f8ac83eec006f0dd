import { sql } from "drizzle-orm";
import {
  bigint,
  bigserial,
  boolean,
  index,
  integer,
  jsonb,
  pgTable,
  text,
  timestamp,
} from "drizzle-orm/pg-core";

export type OpState = "pending" | "sent" | "acked" | "done" | "failed" | "superseded";

/** What the host is told; the machine's config is read when the op is sent. */
export type OpCommand =
  | { kind: "start"; incarnation: number }
  | { kind: "stop"; signal: number; timeoutMs: number }
  | { kind: "destroy" }
  | ImageCommand;

/** Of a host's images; `machine_id` is then the image job. */
export type ImageCommand =
  | { kind: "pull_image"; projectId: string; image: string }
  | { kind: "prune_images"; all: boolean }
  | { kind: "pin_image"; digest: string; pinned: boolean }
  | { kind: "remove_image"; digest: string };

export function isImageCommand(command: OpCommand): command is ImageCommand {
  return command.kind.includes("_image");
}

/**
 * The outbox: an op is written in the transaction that wants it and sent, at
 * least once, by whoever holds the host's stream. `machine_id` has no foreign
 * key: a machine that only its host knows is destroyed by an op too.
 */
export const ops = pgTable(
  "ops",
  {
    id: text("id").primaryKey(),
    sequence: bigserial("sequence", { mode: "number" }).notNull(),
    machineId: text("machine_id").notNull(),
    hostId: text("host_id").notNull(),
    generation: bigint("generation", { mode: "number" }).notNull(),
    command: jsonb("command").$type<OpCommand>().notNull(),
    state: text("state").$type<OpState>().notNull().default("pending"),
    /** The host's epoch under which it was last sent; 0 = never. */
    sentEpoch: bigint("sent_epoch", { mode: "number" }).notNull().default(0),
    attempts: integer("attempts").notNull().default(0),
    /** Went out with a password, which the host's journal does not keep. */
    withLogin: boolean("with_login").notNull().default(false),
    errorReason: text("error_reason"),
    errorMessage: text("error_message"),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
    finishedAt: timestamp("finished_at", { withTimezone: true }),
  },
  (table) => [
    // What is over stays for days, and the poll for what is not runs every second.
    index("ops_open")
      .on(table.hostId, table.sequence)
      .where(sql`${table.state} in ('pending', 'sent', 'acked')`),
    index("ops_machine").on(table.machineId, table.sequence),
  ],
);
export type OpRow = typeof ops.$inferSelect;
