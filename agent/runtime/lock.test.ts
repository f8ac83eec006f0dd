import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lockDirectory } from "./lock.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "lev-lock-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("a directory is held until it is let go", () => {
  const lock = lockDirectory(dir);
  expect(() => lockDirectory(dir)).toThrow(`in use by the agent with pid ${process.pid}`);
  lock[Symbol.dispose]();
  expect(readdirSync(dir)).toEqual([]);
  lockDirectory(dir)[Symbol.dispose]();
});

test.each([
  ["of a process that is gone", "999999999 1"],
  ["of a pid that is somebody else's by now", `${process.pid} 1`],
  ["that is empty", ""],
])("a lock %s is taken over", (_name, text) => {
  writeFileSync(join(dir, "agent.lock"), text);
  using _lock = lockDirectory(dir);
  expect(existsSync(join(dir, "agent.lock"))).toBe(true);
});
