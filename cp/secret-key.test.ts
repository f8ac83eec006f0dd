import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadSecretKey } from "./secret-key.ts";

let dataDir: string;
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), "leveret-key-"));
});
afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

test("the first start makes a key that only its owner reads, later ones find it", () => {
  const made = loadSecretKey({ secretKey: null, dataDir });
  expect(made.length).toBe(32);
  expect(loadSecretKey({ secretKey: null, dataDir })).toEqual(made);
  expect(statSync(join(dataDir, "secret.key")).mode & 0o777).toBe(0o600);
  expect(readdirSync(dataDir)).toEqual(["secret.key"]);
});

test("the environment's key is taken before any file, and makes none", () => {
  const key = loadSecretKey({ secretKey: "ab".repeat(32), dataDir });
  expect(key).toEqual(new Uint8Array(32).fill(0xab));
  expect(readdirSync(dataDir)).toEqual([]);
});

test("a file that is no key is refused by name, not replaced", () => {
  writeFileSync(join(dataDir, "secret.key"), "short\n");
  expect(() => loadSecretKey({ secretKey: null, dataDir })).toThrow("expected 64 hexadecimal");
});
