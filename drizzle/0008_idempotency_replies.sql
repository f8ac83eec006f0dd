CREATE TABLE "idempotency_replies" (
	"project_id" text NOT NULL,
	"key" text NOT NULL,
	"request_hash" text NOT NULL,
	"request_id" text NOT NULL,
	"status" integer,
	"body" "bytea",
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "idempotency_replies_project" PRIMARY KEY("project_id","key")
);
--> statement-breakpoint
CREATE INDEX "idempotency_replies_created" ON "idempotency_replies" USING btree ("created_at");