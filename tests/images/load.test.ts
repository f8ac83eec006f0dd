/** Images from disk: what skopeo writes is loaded and built without any registry. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadImage } from "../../agent/images/load.ts";
import { systemClock } from "../../lib/clock.ts";
import { testImage } from "../kit/images.ts";
import { runTool } from "../kit/images/run.ts";
import { reasonOf, TestStore } from "../kit/images/store.ts";

setDefaultTimeout(300_000);

let scratch: string;
let layout: string;
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), "lev-load-"));
  layout = await testImage("busybox");
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

async function copyTo(target: string): Promise<void> {
  await runTool(["skopeo", "copy", "--quiet", "--insecure-policy", `oci:${layout}:latest`, target]);
}

describe("an image that skopeo wrote", () => {
  const forms: [string, (at: string) => string, RegExp][] = [
    ["an OCI layout directory", (at) => `oci:${at}:latest`, /^localhost\/loaded@sha256:/],
    ["an oci-archive", (at) => `oci-archive:${at}:latest`, /^localhost\/loaded@sha256:/],
    [
      "a docker-archive",
      (at) => `docker-archive:${at}:reg.example/team/box:1`,
      /^reg\.example\/team\/box@sha256:/,
    ],
  ];
  for (const [what, target, reference] of forms)
    test(`as ${what} is loaded by the command and built without a registry`, async () => {
      const at = join(scratch, what.replaceAll(" ", "-"));
      await copyTo(target(at));
      await using own = new TestStore();
      const main = join(import.meta.dir, "../../agent/images/load-main.ts");
      const printed = (await runTool([process.execPath, main, "--dir", own.dir, at])).trim();
      expect(printed).toMatch(reference);
      const built = await own.store.ensure(printed);
      expect(built.config.entrypoint).toEqual(["/bin/env", "FROM_ENTRYPOINT=1"]);
      const listing = await runTool(["unsquashfs", "-no-progress", "-lln", built.squashfsPath]);
      expect(listing).toContain("bin/busybox");
    });

  test("is the same image from a layout and from its archive", async () => {
    const archive = join(scratch, "same.tar");
    await copyTo(`oci-archive:${archive}:latest`);
    await using own = new TestStore();
    const blobs = join(own.dir, "blobs");
    const a = await loadImage(layout, blobs, systemClock);
    expect(await loadImage(archive, blobs, systemClock)).toEqual(a);
  });
});

describe("a compressed archive", () => {
  for (const [what, pack] of [
    ["gzip", ["gzip", "-1"]],
    ["zstd", ["zstd", "-q", "-1", "--rm"]],
  ] as const)
    test(`of ${what} is unpacked, and nothing of that stays`, async () => {
      const archive = join(scratch, `packed-${what}.tar`);
      await copyTo(`docker-archive:${archive}:reg.example/box:1`);
      await runTool([...pack, archive]);
      await using own = new TestStore();
      const packed = `${archive}.${what === "gzip" ? "gz" : "zst"}`;
      const { reference, digest, sizeBytes } = await own.store.load(packed, null);
      expect(reference).toBe(`reg.example/box@${digest}`);
      expect((await own.store.ensure(reference)).sizeBytes).toBe(sizeBytes);
      expect(own.files().filter((name) => name.includes(".tmp-"))).toEqual([]);
    });

  test("that is cut off is refused, and nothing of it stays", async () => {
    const archive = join(scratch, "cut.tar");
    await copyTo(`docker-archive:${archive}:reg.example/box:1`);
    await runTool(["gzip", "-1", archive]);
    const bytes = await readFile(`${archive}.gz`);
    await writeFile(`${archive}.gz`, bytes.subarray(0, bytes.length / 2));
    await using own = new TestStore();
    expect(await reasonOf(own.store.load(`${archive}.gz`, null))).toBe("IMAGE_CORRUPT");
    expect(own.files().filter((name) => name.includes(".tmp-"))).toEqual([]);
  });
});

describe("refuses, and leaves nothing to build from,", () => {
  test("a layout with a changed blob", async () => {
    const at = join(scratch, "changed");
    await copyTo(`oci:${at}:latest`);
    const names = (await runTool(["ls", "-S", join(at, "blobs/sha256")])).split("\n");
    const blob = join(at, "blobs/sha256", names[0] ?? "");
    const bytes = await readFile(blob);
    bytes[100] = (bytes[100] ?? 0) ^ 1;
    await writeFile(blob, bytes);
    await using own = new TestStore();
    expect(await reasonOf(loadImage(at, join(own.dir, "blobs"), systemClock))).toBe(
      "IMAGE_CORRUPT",
    );
    expect(own.files().filter((name) => name.includes(".tmp-"))).toEqual([]);
  });

  test("several images without a choice, and what is no image", async () => {
    const at = join(scratch, "several");
    for (const tag of ["one", "two"]) await copyTo(`oci:${at}:${tag}`);
    await using own = new TestStore();
    const load = async (path: string, tag: string | null = null): Promise<string> =>
      await reasonOf(loadImage(path, join(own.dir, "blobs"), systemClock, tag));
    expect(await load(at)).toBe("BAD_REQUEST");
    expect(await load(at, "three")).toBe("BAD_REQUEST");
    expect(await load(at, "two")).toBe("built");
    const plain = join(scratch, "plain.tar");
    await runTool(["tar", "-cf", plain, "-C", join(at, "blobs"), "."]);
    expect(await load(plain)).toBe("BAD_REQUEST");
    expect(await load(join(scratch, "none"))).toBe("BAD_REQUEST");
  });

  test("an archive whose files are links in a circle or out of it", async () => {
    const dir = join(scratch, "links");
    await runTool(["mkdir", "-p", dir]);
    await runTool(["ln", "-s", "manifest.json", join(dir, "index.json")]);
    await runTool(["ln", "-s", "index.json", join(dir, "manifest.json")]);
    const archive = join(scratch, "links.tar");
    await runTool(["tar", "-cf", archive, "-C", dir, "."]);
    await using own = new TestStore();
    const wait = loadImage(archive, join(own.dir, "blobs"), systemClock);
    expect(await reasonOf(wait)).toBe("BAD_REQUEST");
  });
});
