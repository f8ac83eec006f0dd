import { expect, test } from "bun:test";
import { covers, missing } from "./access.ts";

test("a scope includes the ones before it and no other", () => {
  expect(covers("admin", "read")).toBe(true);
  expect(covers("write", "write")).toBe(true);
  expect(covers("read", "write")).toBe(false);
  expect(covers("write", "admin")).toBe(false);
});

test("the fleet is for fleet tokens only, whatever the scope", () => {
  expect(missing({ scope: "admin", fleet: false }, "fleet_read")).toContain("one project");
  expect(missing({ scope: "read", fleet: true }, "fleet_read")).toBeNull();
  expect(missing({ scope: "write", fleet: true }, "fleet_admin")).toContain("scope admin");
  expect(missing({ scope: "write", fleet: false }, "write")).toBeNull();
});
