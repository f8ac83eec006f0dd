import { customType, integer, pgTable, timestamp } from "drizzle-orm/pg-core";

export const bytes = customType<{ data: Uint8Array; driverData: Uint8Array }>({
  dataType: () => "bytea",
  fromDriver: (value) => new Uint8Array(value),
});

/** One row: the CA that every replica issues hosts' certificates with. */
export const authority = pgTable("authority", {
  /** Always 1. */
  id: integer("id").primaryKey(),
  /** X.509, DER. */
  certificate: bytes("certificate").notNull(),
  /** PKCS#8 PEM under AES-256-GCM: nonce (12 bytes), tag (16), text. */
  sealedKey: bytes("sealed_key").notNull(),
  createdAt: timestamp("created_at", { withTimezone: true }).notNull().defaultNow(),
});
