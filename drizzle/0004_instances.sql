CREATE TABLE "host_instances" (
	"host_id" text PRIMARY KEY NOT NULL,
	"current" text NOT NULL,
	"earlier" jsonb NOT NULL,
	"returns" integer DEFAULT 0 NOT NULL,
	"returned_at" timestamp with time zone
);
