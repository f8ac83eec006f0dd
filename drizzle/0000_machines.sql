CREATE TABLE "events" (
	"id" text PRIMARY KEY NOT NULL,
	"sequence" bigserial NOT NULL,
	"machine_id" text NOT NULL,
	"type" text NOT NULL,
	"status" text NOT NULL,
	"source" text NOT NULL,
	"reason" text,
	"message" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "hosts" (
	"id" text PRIMARY KEY NOT NULL,
	"hostname" text NOT NULL,
	"state" text NOT NULL,
	"arch" text NOT NULL,
	"kvm" text NOT NULL,
	"version" text NOT NULL,
	"labels" jsonb NOT NULL,
	"boot_id" text NOT NULL,
	"epoch" bigint NOT NULL,
	"owner_replica" text,
	"capacity_cpus" integer NOT NULL,
	"capacity_memory_mib" bigint NOT NULL,
	"capacity_disk_mib" bigint NOT NULL,
	"committed_cpus" integer DEFAULT 0 NOT NULL,
	"committed_memory_mib" bigint DEFAULT 0 NOT NULL,
	"committed_disk_mib" bigint DEFAULT 0 NOT NULL,
	"last_seen_at" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "idempotency_keys" (
	"key" text PRIMARY KEY NOT NULL,
	"request_hash" text NOT NULL,
	"machine_id" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "machines" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"config" jsonb NOT NULL,
	"image_digest" text,
	"desired_state" text NOT NULL,
	"desired_generation" bigint NOT NULL,
	"observed_state" text NOT NULL,
	"observed_generation" bigint DEFAULT 0 NOT NULL,
	"observed_sequence" bigint DEFAULT 0 NOT NULL,
	"host_id" text,
	"incarnation" bigint DEFAULT 0 NOT NULL,
	"status_reason" text,
	"status_message" text,
	"exit_code" integer,
	"exit_signal" integer,
	"boot_us" bigint,
	"version" integer DEFAULT 1 NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp with time zone,
	"stopped_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "ops" (
	"id" text PRIMARY KEY NOT NULL,
	"sequence" bigserial NOT NULL,
	"machine_id" text NOT NULL,
	"host_id" text NOT NULL,
	"generation" bigint NOT NULL,
	"command" jsonb NOT NULL,
	"state" text DEFAULT 'pending' NOT NULL,
	"sent_epoch" bigint DEFAULT 0 NOT NULL,
	"attempts" integer DEFAULT 0 NOT NULL,
	"error_reason" text,
	"error_message" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "placements" (
	"machine_id" text PRIMARY KEY NOT NULL,
	"host_id" text NOT NULL,
	"cpus" integer NOT NULL,
	"memory_mib" bigint NOT NULL,
	"disk_mib" bigint NOT NULL,
	"running" boolean NOT NULL
);
--> statement-breakpoint
CREATE INDEX "events_machine" ON "events" USING btree ("machine_id","sequence");--> statement-breakpoint
CREATE INDEX "hosts_state" ON "hosts" USING btree ("state");--> statement-breakpoint
CREATE UNIQUE INDEX "machines_name" ON "machines" USING btree ("name") WHERE "machines"."desired_state" <> 'destroyed';--> statement-breakpoint
CREATE INDEX "machines_host" ON "machines" USING btree ("host_id");--> statement-breakpoint
CREATE INDEX "machines_created" ON "machines" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "ops_open" ON "ops" USING btree ("host_id","state","sequence");--> statement-breakpoint
CREATE INDEX "ops_machine" ON "ops" USING btree ("machine_id","sequence");--> statement-breakpoint
CREATE INDEX "placements_host" ON "placements" USING btree ("host_id");