CREATE TABLE "host_image_names" (
	"name" text NOT NULL,
	"host_id" text NOT NULL,
	CONSTRAINT "host_image_names_name_host_id_pk" PRIMARY KEY("name","host_id")
);
--> statement-breakpoint
CREATE TABLE "host_images" (
	"host_id" text NOT NULL,
	"digest" text NOT NULL,
	"size_bytes" bigint NOT NULL,
	"last_used_at" timestamp with time zone NOT NULL,
	"pinned" boolean NOT NULL,
	"names" jsonb NOT NULL,
	CONSTRAINT "host_images_host_id_digest_pk" PRIMARY KEY("host_id","digest")
);
--> statement-breakpoint
CREATE TABLE "image_jobs" (
	"id" text PRIMARY KEY NOT NULL,
	"project_id" text NOT NULL,
	"host_id" text NOT NULL,
	"kind" text NOT NULL,
	"image" text NOT NULL,
	"state" text DEFAULT 'pending' NOT NULL,
	"digest" text,
	"bytes" bigint,
	"removed" integer,
	"error_reason" text,
	"error_message" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "registries" (
	"project_id" text NOT NULL,
	"registry" text NOT NULL,
	"username" text NOT NULL,
	"sealed" "bytea" NOT NULL,
	"key_id" text NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "registries_project_id_registry_pk" PRIMARY KEY("project_id","registry")
);
--> statement-breakpoint
ALTER TABLE "ops" ADD COLUMN "with_login" boolean DEFAULT false NOT NULL;--> statement-breakpoint
CREATE INDEX "host_images_digest" ON "host_images" USING btree ("digest");--> statement-breakpoint
CREATE INDEX "image_jobs_open" ON "image_jobs" USING btree ("host_id","state");--> statement-breakpoint
CREATE INDEX "image_jobs_project" ON "image_jobs" USING btree ("project_id","digest");