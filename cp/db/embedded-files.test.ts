import { afterEach, beforeEach, expect, test } from "bun:test";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chooseUser, prepareBinaries } from "./embedded-files.ts";

let root = "";
beforeEach(() => {
  root = fs.mkdtempSync(join(tmpdir(), "leveret-embedded-"));
});
afterEach(() => fs.rmSync(root, { recursive: true, force: true }));

const anyone = { ids: {}, own: () => undefined };
const isRoot = process.getuid?.() === 0;

test("every short name that the package leaves out is linked, again and again", () => {
  for (let run = 0; run < 2; run += 1) prepareBinaries(root, anyone);
  const binaries = prepareBinaries(root, anyone);
  const links = fs.readdirSync(join(root, "lib"));
  expect(links).toContain("libpq.so.5");
  expect(links).toContain("libicuuc.so.60");
  for (const link of links) expect(fs.statSync(join(root, "lib", link)).isFile()).toBe(true);
  expect(binaries.env["LD_LIBRARY_PATH"]).toStartWith(join(root, "lib"));
  expect(fs.statSync(binaries.postgres).mode & 0o111).not.toBe(0);
});

test.skipIf(!isRoot)(
  "as root, a directory that PostgreSQL's user cannot enter is named (skipped: needs root)",
  () => {
    fs.chmodSync(root, 0o700);
    const inside = join(root, "cp");
    fs.mkdirSync(inside);
    expect(() => chooseUser(inside, join(inside, "data"))).toThrow(`cannot enter "${root}"`);
    fs.chmodSync(root, 0o755);
    expect(chooseUser(inside, join(inside, "data")).ids.uid).toBeGreaterThan(0);
  },
);

test.skipIf(!isRoot)(
  "as root, the owner of an existing cluster stays its owner (skipped: needs root)",
  () => {
    fs.chmodSync(root, 0o755);
    const data = join(root, "data");
    fs.mkdirSync(data);
    fs.chownSync(data, 12_345, 12_346);
    expect(chooseUser(root, data).ids).toEqual({ uid: 12_345, gid: 12_346 });
  },
);
