CREATE TABLE "authority" (
	"id" integer PRIMARY KEY NOT NULL,
	"certificate" "bytea" NOT NULL,
	"sealed_key" "bytea" NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "host_keys" (
	"key_hash" text PRIMARY KEY NOT NULL,
	"host_id" text NOT NULL,
	"enrolled_at" timestamp with time zone DEFAULT now() NOT NULL,
	"not_after" timestamp with time zone NOT NULL,
	"revoked_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "join_tokens" (
	"id" text PRIMARY KEY NOT NULL,
	"secret_hash" text NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"used_at" timestamp with time zone,
	"key_hash" text
);
--> statement-breakpoint
CREATE UNIQUE INDEX "host_keys_one_per_host" ON "host_keys" USING btree ("host_id") WHERE "host_keys"."revoked_at" is null;--> statement-breakpoint
CREATE INDEX "host_keys_revoked" ON "host_keys" USING btree ("revoked_at");--> statement-breakpoint
CREATE INDEX "join_tokens_expires" ON "join_tokens" USING btree ("expires_at");