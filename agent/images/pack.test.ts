import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { chmod, link, mkdir, readFile, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ByteReader } from "./byte-reader.ts";
import { readLayer } from "./layer.ts";
import { choosePlatform, parseConfig, parseDocument } from "./manifest.ts";
import { packRootfs } from "./pack.ts";
import { walkTar, type TarEntry } from "./tar.ts";

const dir = mkdtempSync(join(tmpdir(), "lev-pack-"));
afterAll(() => rm(dir, { recursive: true, force: true }));

describe("packRootfs", () => {
  test("makes a layout that our own reader takes, with modes, times, links and contents", async () => {
    const root = join(dir, "root");
    await mkdir(join(root, "bin"), { recursive: true });
    await writeFile(join(root, "bin/tool"), "tool");
    await chmod(join(root, "bin/tool"), 0o4755);
    await utimes(join(root, "bin/tool"), 1000, 1000);
    await link(join(root, "bin/tool"), join(root, "bin/zz-same"));
    await symlink("tool", join(root, "bin/soft"));
    await writeFile(join(root, "größe"), "");
    const layout = join(dir, "layout");
    const packed = await packRootfs(root, layout, { cmd: ["/bin/tool"], user: "1:2" });

    const blob = (digest: string): string => join(layout, "blobs/sha256", digest.slice(7));
    const index = parseDocument(await readFile(join(layout, "index.json")), "", "x");
    if (index.kind !== "index") throw new Error("no index");
    const { digest } = choosePlatform(index.index, "x");
    expect(digest).toBe(packed.digest);
    const document = parseDocument(await readFile(blob(digest)), "", "x");
    if (document.kind !== "manifest") throw new Error("no manifest");
    const { manifest } = document;
    const { config, diffIds } = parseConfig(await readFile(blob(manifest.config.digest)), 1, "x");
    expect(config).toMatchObject({ cmd: ["/bin/tool"], entrypoint: null, user: "1:2" });

    const layer = manifest.layers[0]?.digest ?? "";
    const hasher = new Bun.CryptoHasher("sha256");
    const reader = new ByteReader(readLayer(blob(layer), layer), (chunk) => hasher.update(chunk));
    const entries: TarEntry[] = [];
    for await (const entry of walkTar(reader)) entries.push(entry);
    await reader.drain();
    expect(diffIds).toEqual([`sha256:${hasher.digest("hex")}`]);
    expect(entries.map(({ name, kind }) => [Buffer.from(name, "latin1").toString(), kind])).toEqual(
      [
        ["./", "directory"],
        ["bin/", "directory"],
        ["bin/soft", "symlink"],
        ["bin/tool", "file"],
        ["bin/zz-same", "hardlink"],
        ["größe", "file"],
      ],
    );
    expect(entries[3]).toMatchObject({ mode: 0o4755, mtime: 1000, uid: 0, gid: 0, size: 4 });
    expect(entries[4]?.linkName).toBe("bin/tool");
  });
});
