import {
  bigint,
  boolean,
  index,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
} from "drizzle-orm/pg-core";

/** The finished images of each host, as its agent has told them last. */
export const hostImages = pgTable(
  "host_images",
  {
    hostId: text("host_id").notNull(),
    digest: text("digest").notNull(),
    sizeBytes: bigint("size_bytes", { mode: "number" }).notNull(),
    lastUsedAt: timestamp("last_used_at", { withTimezone: true }).notNull(),
    pinned: boolean("pinned").notNull(),
    /** Normalised, newest last. */
    names: jsonb("names").$type<string[]>().notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.hostId, table.digest] }),
    index("host_images_digest").on(table.digest),
  ],
);
export type HostImageRow = typeof hostImages.$inferSelect;
