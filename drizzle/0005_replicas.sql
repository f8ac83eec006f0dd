CREATE TABLE "cluster" (
	"id" integer PRIMARY KEY NOT NULL,
	"secret" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "leaders" (
	"work" text PRIMARY KEY NOT NULL,
	"replica_id" text NOT NULL,
	"term" bigint NOT NULL,
	"lease_until" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "replicas" (
	"id" text PRIMARY KEY NOT NULL,
	"url" text NOT NULL,
	"lease_until" timestamp with time zone NOT NULL
);
