import { pgTable, primaryKey, text, timestamp } from "drizzle-orm/pg-core";
import { bytes } from "./authority.ts";

/** Registry credentials of projects. */
export const registries = pgTable(
  "registries",
  {
    projectId: text("project_id").notNull(),
    /** As references name it. */
    registry: text("registry").notNull(),
    username: text("username").notNull(),
    /** The password under AES-256-GCM, bound to project and registry: nonce, tag, text. */
    sealed: bytes("sealed").notNull(),
    /** Which secret key it was sealed with: the beginning of the key's SHA-256. */
    keyId: text("key_id").notNull(),
    updatedAt: timestamp("updated_at", { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.projectId, table.registry] })],
);
export type RegistryRow = typeof registries.$inferSelect;
