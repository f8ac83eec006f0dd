ALTER TABLE "machines" ADD COLUMN "restarts" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "restart_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "lease_nonce" text;--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "lease_owner" text;--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "lease_description" text;--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "lease_expires_at" timestamp with time zone;--> statement-breakpoint
CREATE INDEX "machines_restart" ON "machines" USING btree ("restart_at") WHERE "machines"."restart_at" is not null;--> statement-breakpoint
UPDATE "machines" SET "config" = '{"restart":{"policy":"no","max_retries":10},"auto_destroy":false}'::jsonb || "config";
