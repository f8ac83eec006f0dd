DROP INDEX "machines_image";--> statement-breakpoint
CREATE INDEX "machines_image" ON "machines" USING btree ("image","host_id") WHERE "machines"."image_digest" is not null;