/** The image store against a real registry, compared with umoci's own unpacking. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageStore } from "../../agent/images/builder.ts";
import { detectCompression } from "../../agent/images/layer.ts";
import type { ImageProgress } from "../../agent/images/types.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { corruptLayer, pushImage, pushIndex, testImage } from "../kit/images.ts";
import { squashfsMountProblem, withMounted } from "../kit/images/mount.ts";
import { runTool } from "../kit/images/run.ts";
import { startRegistry, type Registry } from "../kit/registry.ts";
import { compareTrees, describeTree } from "../kit/tree.ts";
import { until } from "../kit/until.ts";

/** The Debian image is made on first use: about a minute, more on a busy machine. */
setDefaultTimeout(300_000);

let registry: Registry;
let scratch: string;
const stores: ImageStore[] = [];

beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), "lev-images-"));
  registry = await startRegistry();
  for (const image of ["busybox", "debian-python"] as const) await pushImage(registry.host, image);
});

afterAll(async () => {
  for (const store of stores) await store.close();
  await registry.close();
  await rm(scratch, { recursive: true, force: true });
});

function newStore(name: string): { store: ImageStore; dir: string } {
  const dir = join(scratch, name);
  const config = { mirrors: [], insecure: [] };
  const store = new ImageStore({ dir, config, log: silentLog(), clock: systemClock });
  stores.push(store);
  return { store, dir };
}

const filesBelow = (dir: string): string[] =>
  existsSync(dir) ? readdirSync(dir, { recursive: true, encoding: "utf8" }).toSorted() : [];

/** As the kernel sees it where that may be asked, else as unsquashfs does. */
async function describeSquashfs(squashfs: string, at: string): Promise<string[]> {
  if ((await squashfsMountProblem()) === null) return await withMounted(squashfs, at, describeTree);
  await runTool(["unsquashfs", "-no-progress", "-quiet", "-d", at, squashfs]);
  return describeTree(at);
}

describe("an image from a real registry", () => {
  const compared = ["busybox", "debian-python"] as const;
  for (const image of compared)
    test(`${image} has the same tree as umoci unpacks: names, types, modes, owners, times, xattrs, links, devices, contents`, async () => {
      const reference = await pushImage(registry.host, image);
      const { store } = newStore(image);
      const phases: ImageProgress[] = [];
      const built = await store.ensure(reference, { onProgress: (p) => phases.push(p) });
      const bundle = join(scratch, `${image}-bundle`);
      await runTool(["umoci", "unpack", "--image", `${await testImage(image)}:latest`, bundle]);
      const expected = describeTree(join(bundle, "rootfs"));
      const ours = await describeSquashfs(built.squashfsPath, join(scratch, `${image}-ours`));
      expect(compareTrees(expected, ours)).toEqual([]);
      expect(expected.length).toBeGreaterThan(100);
      expect([...new Set(phases.map(({ phase }) => phase))]).toEqual([
        "resolving",
        "pulling",
        "converting",
        "ready",
      ]);
      expect(phases.filter((p) => p.bytesTotal > 0 && p.bytesDone > p.bytesTotal)).toEqual([]);
    });

  test("zstd layers give the same bytes as gzip layers", async () => {
    const gzip = await newStore("debian-python").store.ensure(`${registry.host}/debian-python`);
    const { store, dir } = newStore("zstd");
    const zstd = await store.ensure(await pushImage(registry.host, "debian-python-zstd"));
    expect(zstd.digest).not.toBe(gzip.digest);
    await runTool(["cmp", gzip.squashfsPath, zstd.squashfsPath]);
    const blobs = filesBelow(join(dir, "blobs/sha256"));
    const heads = await Promise.all(
      blobs.map((name) =>
        Bun.file(join(dir, "blobs/sha256", name))
          .slice(0, 4)
          .bytes(),
      ),
    );
    expect(heads.filter((head) => detectCompression(head) === "zstd").length).toBe(4);
  });

  test("is taken out of an index by its platform, in Docker's format too", async () => {
    const reference = await pushIndex(registry.host);
    const busybox = await newStore("busybox").store.ensure(`${registry.host}/busybox`);
    const { store } = newStore("index");
    const chosen = await store.ensure(reference);
    await runTool(["cmp", busybox.squashfsPath, chosen.squashfsPath]);
    expect(chosen.config).toEqual(busybox.config);
    const raw = await runTool([
      "skopeo",
      "inspect",
      "--tls-verify=false",
      "--raw",
      `docker://${reference}`,
    ]);
    const index = new Bun.CryptoHasher("sha256").update(raw).digest("hex");
    const pinned = reference.replace(":latest", `@sha256:${index}`);
    expect((await store.ensure(pinned)).digest).toBe(chosen.digest);
  });

  test("gives the image's configuration", async () => {
    const { store } = newStore("busybox");
    const built = await store.ensure(`${registry.host}/busybox`);
    expect(built.config).toEqual({
      entrypoint: ["/bin/env", "FROM_ENTRYPOINT=1"],
      cmd: ["/bin/sh", "-c", "echo hello from busybox"],
      env: ["PATH=/bin", "GREETING=hello from the image"],
      user: "app:app",
      workingDir: "/home/app",
      stopSignal: "SIGTERM",
    });
  });

  test("is byte for byte the same when it is built again elsewhere", async () => {
    const first = await newStore("debian-python").store.ensure(`${registry.host}/debian-python`);
    const second = await newStore("again").store.ensure(`${registry.host}/debian-python`);
    expect(second.squashfsPath).not.toBe(first.squashfsPath);
    await runTool(["cmp", first.squashfsPath, second.squashfsPath]);
  });

  test("is found by digest without a registry once it was built", async () => {
    const { digest } = await newStore("busybox").store.ensure(`${registry.host}/busybox`);
    const other = await startRegistry();
    const reference = `${other.host}/busybox@${digest}`;
    await other.close();
    expect((await newStore("busybox").store.ensure(reference)).digest).toBe(digest);
  });
});

describe("a failed pull", () => {
  const failures = [
    [
      "IMAGE_NOT_FOUND",
      "an unknown image",
      "no-such/image:1",
      /"127.*no-such\/image:1" was not found/,
    ],
    ["IMAGE_NOT_FOUND", "an unknown tag", "busybox:nope", /was not found in registry "127/],
    ["IMAGE_PLATFORM_MISSING", "another architecture", "arm64only", /linux\/amd64.*linux\/arm64/],
    ["IMAGE_CORRUPT", "a layer with another diff_id", "wrong-diff-id", /unpacks to sha256:/],
    ["IMAGE_REFERENCE_INVALID", "a malformed reference", "UP PER", /not part of a repository name/],
  ] as const;
  for (const [reason, what, name, message] of failures)
    test(`of ${what} is ${reason} within seconds and leaves no image`, async () => {
      if (name === "arm64only" || name === "wrong-diff-id") await pushImage(registry.host, name);
      const { store, dir } = newStore(`failed-${what}`.replaceAll(" ", "-"));
      const started = performance.now();
      const wait = store.ensure(`${registry.host}/${name}`);
      expect(await wait.catch((error: unknown) => error)).toMatchObject({
        reason,
        message: expect.stringMatching(message),
      });
      expect(performance.now() - started).toBeLessThan(5_000);
      expect(filesBelow(join(dir, "images"))).toEqual([]);
      expect(filesBelow(dir).filter((path) => /\.part$|\.tmp-/.test(path))).toEqual([]);
    });

  test("of a layer whose bytes changed in the registry names the blob and what it is", async () => {
    await using own = await startRegistry();
    await pushImage(own.host, "busybox");
    const digest = await corruptLayer(own.storage, await testImage("busybox"));
    const { store, dir } = newStore("corrupt");
    const error: unknown = await store.ensure(`${own.host}/busybox`).catch((e: unknown) => e);
    expect(error).toMatchObject({ reason: "IMAGE_CORRUPT" });
    expect(String(error)).toMatch(
      new RegExp(`${digest} of image "${own.host}/busybox:latest" is corrupt.*are sha256:`),
    );
    expect(filesBelow(join(dir, "images"))).toEqual([]);
    expect(filesBelow(dir).filter((path) => /\.part$|\.tmp-/.test(path))).toEqual([]);
  });

  /** An agent's directory of its own size. */
  async function onSmallDisk(
    mebibytes: number,
    pull: (dir: string, store: ImageStore) => Promise<void>,
  ): Promise<void> {
    const { dir } = newStore(`full-${mebibytes}`);
    await mkdir(dir);
    await runTool(["mount", "-t", "tmpfs", "-o", `size=${mebibytes}m`, "lev-full", dir]);
    try {
      const { store } = newStore(`full-${mebibytes}`);
      await pull(dir, store);
      await store.close();
    } finally {
      await runTool(["umount", dir]);
    }
  }

  test("that would fill the disk is refused before a layer is fetched, with the sizes", async () => {
    const reference = await pushImage(registry.host, "debian-python");
    await onSmallDisk(40, async (dir, store) => {
      const before = (await Bun.file(registry.logPath).text()).length;
      const error: unknown = await store.ensure(reference).catch((e: unknown) => e);
      expect(error).toMatchObject({ reason: "DISK_FULL", retryable: true });
      expect(String(error)).toMatch(/needs about \d+ MiB .*\d+ MiB are free/);
      expect((await Bun.file(registry.logPath).text()).slice(before)).not.toContain("/blobs/");
      expect(filesBelow(join(dir, "images"))).toEqual([]);
    });
  });

  test("for want of room in the middle is DISK_FULL, leaves no image and gives the room back", async () => {
    const reference = await pushImage(registry.host, "debian-python");
    await onSmallDisk(140, async (dir, store) => {
      // Somebody else takes the room when the pull has begun.
      const fills: Promise<unknown>[] = [];
      const onProgress = ({ phase }: ImageProgress): void => {
        if (phase === "resolving" || fills.length > 0) return;
        fills.push(runTool(["sh", "-c", 'cat /dev/zero > "$0/other" || true', dir]));
      };
      const error: unknown = await store.ensure(reference, { onProgress }).catch((e: unknown) => e);
      await Promise.all(fills);
      expect(error).toMatchObject({ reason: "DISK_FULL", retryable: true });
      expect(filesBelow(join(dir, "images"))).toEqual([]);
      expect(filesBelow(dir).filter((path) => /\.part$|\.tmp-/.test(path))).toEqual([]);
      await rm(join(dir, "other"));
      expect((await store.ensure(reference)).sizeBytes).toBeGreaterThan(1 << 20);
    });
  });

  test("of a registry that is not there is REGISTRY_UNAVAILABLE and may be tried again", async () => {
    const gone = await startRegistry();
    await gone.close();
    const wait = newStore("unreachable").store.ensure(`${gone.host}/busybox`);
    expect(await wait.catch((error: unknown) => error)).toMatchObject({
      reason: "REGISTRY_UNAVAILABLE",
      retryable: true,
    });
  });
});

describe("builds and their waiters", () => {
  test("two names of one digest at the same time are one build", async () => {
    const reference = await pushImage(registry.host, "debian-python");
    const { store } = newStore("single-flight");
    const { digest } = await newStore("debian-python").store.ensure(reference);
    const names = [reference, reference, reference.replace(":latest", `@${digest}`)];
    const before = (await Bun.file(registry.logPath).text()).length;
    const images = await Promise.all(names.map((name) => store.ensure(name)));
    expect(images.map((image) => image.digest)).toEqual([digest, digest, digest]);
    const log = (await Bun.file(registry.logPath).text()).slice(before);
    const pulled = [...log.matchAll(/"GET \/v2\/debian-python\/blobs\/(sha256:\w+)/g)].map(
      (m) => m[1],
    );
    expect(pulled.length).toBe(5);
    expect(new Set(pulled).size).toBe(5);
  });

  test("a waiter that leaves does not stop the build, and hears nothing more", async () => {
    const reference = await pushImage(registry.host, "debian-python");
    const { store, dir } = newStore("leaver");
    const leave = new AbortController();
    let heard = 0;
    const wait = store.ensure(reference, {
      signal: leave.signal,
      onProgress: ({ phase }) => {
        heard += 1;
        if (phase === "pulling") leave.abort(new Error("the machine was stopped"));
      },
    });
    expect(await wait.catch((error: unknown) => String(error))).toBe(
      "Error: the machine was stopped",
    );
    const heardThen = heard;
    await until("the build's end", () =>
      filesBelow(join(dir, "images")).some((name) => name.endsWith(".json")),
    );
    expect(heard).toBe(heardThen);
    expect((await store.ensure(reference)).sizeBytes).toBeGreaterThan(1 << 20);
  });

  test("close ends a build, tells its waiters and leaves no temporary name", async () => {
    const reference = await pushImage(registry.host, "debian-python");
    const { store, dir } = newStore("closed");
    const converting = Promise.withResolvers<void>();
    const wait = store
      .ensure(reference, {
        onProgress: ({ phase }) => {
          if (phase === "converting") converting.resolve();
        },
      })
      .catch((error: unknown) => error);
    await converting.promise;
    await store.close();
    expect(await wait).toMatchObject({ reason: "SHUTTING_DOWN" });
    expect(filesBelow(join(dir, "images"))).toEqual([]);
    expect(await store.ensure(reference).catch((error: unknown) => error)).toMatchObject({
      reason: "SHUTTING_DOWN",
    });
  });

  test("what dead processes left is removed at the next start, what others write is not", async () => {
    const { dir, store } = newStore("killed");
    const dead = Bun.spawn(["true"]);
    await dead.exited;
    const stale = [dead.pid, process.pid].flatMap((pid) =>
      ["images/a.squashfs", "blobs/names.json", "blobs/sha256/load", "blobs/loaded/a.json"].map(
        (name) => `${name}.tmp-${pid}-x`,
      ),
    );
    const living = `blobs/sha256/load.tmp-${process.ppid}-x`;
    for (const name of [...stale, living, "images/b.squashfs"])
      await Bun.write(join(dir, name), "half");
    await store.ensure(`${registry.host}/busybox`);
    expect(filesBelow(join(dir, "images")).length).toBe(2);
    expect(filesBelow(dir).filter((path) => path.includes(".tmp-"))).toEqual([living]);
  });
});
