import { defineConfig } from "drizzle-kit";

export default defineConfig({
  dialect: "postgresql",
  schema: "./cp/db/schema/*.ts",
  out: "./drizzle",
});
