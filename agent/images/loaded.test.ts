import { expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LoadedImages } from "./loaded.ts";

test("what is loaded is kept: all of it until it is built, the image for a day, nothing after", async () => {
  const dir = mkdtempSync(join(tmpdir(), "lev-loaded-"));
  try {
    let nowMs = Date.now();
    const loaded = new LoadedImages(dir, { ...systemClock, now: () => nowMs });
    const claim = loaded.claim();
    for (const digest of ["layer", "config", "manifest"]) await claim(digest);
    await loaded.claim()("other");
    writeFileSync(join(dir, "loaded", "spoilt.json"), "[");
    expect([...(await loaded.kept())].toSorted()).toEqual(["config", "layer", "manifest", "other"]);
    await loaded.built("manifest");
    expect([...(await loaded.kept())].toSorted()).toEqual(["manifest", "other"]);
    await loaded.drop("manifest");
    expect([...(await loaded.kept())]).toEqual(["other"]);
    nowMs += LIMITS.loadedKeptMs + 10_000;
    expect([...(await loaded.kept())]).toEqual([]);
    expect(readdirSync(join(dir, "loaded"))).toEqual(["spoilt.json"]);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
