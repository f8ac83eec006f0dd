import { bigint, index, integer, pgTable, text, timestamp } from "drizzle-orm/pg-core";

export type ImageJobKind = "pull" | "prune" | "pin" | "unpin" | "remove";

/** What was asked of the images of one host, and what became of it. Its op names it as machine_id. */
export const imageJobs = pgTable(
  "image_jobs",
  {
    id: text("id").primaryKey(),
    projectId: text("project_id").notNull(),
    hostId: text("host_id").notNull(),
    kind: text("kind").$type<ImageJobKind>().notNull(),
    /** The reference, normalised, or the digest; "" for a prune. */
    image: text("image").notNull(),
    state: text("state").$type<"pending" | "done" | "failed">().notNull().default("pending"),
    digest: text("digest"),
    /** Of the image that was pulled, or of what was removed. */
    bytes: bigint("bytes", { mode: "number" }),
    removed: integer("removed"),
    errorReason: text("error_reason"),
    errorMessage: text("error_message"),
    createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
    finishedAt: timestamp("finished_at", { withTimezone: true }),
  },
  (table) => [
    index("image_jobs_open").on(table.hostId, table.state),
    index("image_jobs_project").on(table.projectId, table.digest),
  ],
);
export type ImageJobRow = typeof imageJobs.$inferSelect;
