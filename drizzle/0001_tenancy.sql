CREATE TABLE "audit" (
	"id" text PRIMARY KEY NOT NULL,
	"sequence" bigserial NOT NULL,
	"project_id" text NOT NULL,
	"token_id" text NOT NULL,
	"request_id" text NOT NULL,
	"method" text NOT NULL,
	"path" text NOT NULL,
	"status" integer NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "projects" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"quota_machines" integer,
	"quota_cpus" integer,
	"quota_memory_mib" bigint,
	"quota_disk_mib" bigint,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "projects_name" UNIQUE("name")
);
--> statement-breakpoint
CREATE TABLE "tokens" (
	"id" text PRIMARY KEY NOT NULL,
	"project_id" text,
	"name" text NOT NULL,
	"scope" text NOT NULL,
	"hash" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone,
	"revoked_at" timestamp with time zone,
	"last_used_at" timestamp with time zone,
	CONSTRAINT "tokens_hash" UNIQUE("hash")
);
--> statement-breakpoint
DROP INDEX "machines_name";--> statement-breakpoint
DROP INDEX "machines_created";--> statement-breakpoint
ALTER TABLE "idempotency_keys" DROP CONSTRAINT "idempotency_keys_pkey";--> statement-breakpoint
ALTER TABLE "events" ADD COLUMN "xid" bigint DEFAULT (pg_current_xact_id()::text)::bigint NOT NULL;--> statement-breakpoint
ALTER TABLE "events" ADD COLUMN "project_id" text DEFAULT 'prj_00000000000000000000' NOT NULL;--> statement-breakpoint
ALTER TABLE "idempotency_keys" ADD COLUMN "project_id" text DEFAULT 'prj_00000000000000000000' NOT NULL;--> statement-breakpoint
ALTER TABLE "idempotency_keys" ADD CONSTRAINT "idempotency_keys_project" PRIMARY KEY("project_id","key");--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "project_id" text DEFAULT 'prj_00000000000000000000' NOT NULL;--> statement-breakpoint
CREATE INDEX "audit_project" ON "audit" USING btree ("project_id","sequence");--> statement-breakpoint
CREATE INDEX "audit_created" ON "audit" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "tokens_project" ON "tokens" USING btree ("project_id");--> statement-breakpoint
CREATE INDEX "events_feed" ON "events" USING btree ("xid","sequence");--> statement-breakpoint
CREATE INDEX "events_created" ON "events" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "idempotency_keys_created" ON "idempotency_keys" USING btree ("created_at");--> statement-breakpoint
CREATE UNIQUE INDEX "machines_name" ON "machines" USING btree ("project_id","name") WHERE "machines"."desired_state" <> 'destroyed';--> statement-breakpoint
CREATE INDEX "machines_created" ON "machines" USING btree ("project_id","created_at");--> statement-breakpoint
INSERT INTO "projects" ("id", "name") VALUES ('prj_00000000000000000000', 'default') ON CONFLICT DO NOTHING;
