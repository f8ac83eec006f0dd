import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { tokenFor } from "./credentials.ts";

let dir: string;
let env: Record<string, string>;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "lev-credentials-"));
  env = { LEVERET_CACHE_DIR: join(dir, "cache"), LEVERET_CP_DIR: join(dir, "cp") };
  mkdirSync(join(dir, "cp"));
  mkdirSync(join(dir, "cache", "tokens"), { recursive: true });
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("the variable wins, then what was remembered for the address, then the local file", () => {
  expect(tokenFor("http://127.0.0.1:1", env)).toBeNull();
  writeFileSync(join(dir, "cp", "admin-token"), "local\n");
  expect(tokenFor("http://127.0.0.1:1", env)).toBe("local");
  writeFileSync(join(dir, "cache", "tokens", "127.0.0.1_1"), "remembered\n");
  expect(tokenFor("http://127.0.0.1:1", env)).toBe("remembered");
  expect(tokenFor("http://127.0.0.1:2", env)).toBe("local");
  expect(tokenFor("http://127.0.0.1:1", { ...env, LEVERET_TOKEN: "given" })).toBe("given");
});

test("the local admin token does not travel to another machine", () => {
  writeFileSync(join(dir, "cp", "admin-token"), "local\n");
  expect(tokenFor("https://example.com", env)).toBeNull();
});
