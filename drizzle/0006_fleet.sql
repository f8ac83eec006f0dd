ALTER TABLE "hosts" ADD COLUMN "cordoned" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "drain_mode" text;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "drain_deadline" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "start_failures" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "quarantined_until" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "image" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "machines" ADD COLUMN "anti_affinity" text;--> statement-breakpoint
CREATE INDEX "machines_image" ON "machines" USING btree ("image","host_id");--> statement-breakpoint
CREATE INDEX "machines_group" ON "machines" USING btree ("project_id","anti_affinity");--> statement-breakpoint
CREATE INDEX "machines_pending" ON "machines" USING btree ("created_at") WHERE "machines"."observed_state" = 'pending';--> statement-breakpoint
UPDATE "machines" SET "image" = coalesce("config"->>'image', ''), "config" = '{"placement":{"labels":{}}}'::jsonb || "config";
