DROP INDEX "ops_open";--> statement-breakpoint
CREATE INDEX "ops_open" ON "ops" USING btree ("host_id","sequence") WHERE "ops"."state" in ('pending', 'sent', 'acked');