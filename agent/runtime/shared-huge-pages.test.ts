import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allowSharedHugePages, readSetting } from "./shared-huge-pages.ts";

const WORDS = ["always", "within_size", "advise", "never", "deny", "force"];

test("huge pages are allowed where nobody has said anything, and left as they are elsewhere", () => {
  const dir = mkdtempSync(join(tmpdir(), "leveret-huge-"));
  try {
    const path = join(dir, "shmem_enabled");
    for (const set of WORDS) {
      const text = WORDS.map((word) => (word === set ? `[${word}]` : word)).join(" ");
      writeFileSync(path, `${text}\n`);
      expect(readSetting(path)).toBe(set);
      allowSharedHugePages(path);
      expect(readFileSync(path, "utf8")).toBe(set === "never" ? "advise" : `${text}\n`);
    }
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("a kernel without them is left alone", () => {
  expect(readSetting("/no/such/file")).toBe("");
  expect(() => allowSharedHugePages("/no/such/file")).not.toThrow();
});
