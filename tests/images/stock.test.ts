/** What people do to the images of a host, and who may have what with whose password. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageBuilder } from "../../agent/images/build.ts";
import { loadImage } from "../../agent/images/load.ts";
import type { DiskRoom } from "../../agent/images/collector.ts";
import type { ImageProgress } from "../../agent/images/types.ts";
import { systemClock } from "../../lib/clock.ts";
import { FakeRegistry, gzipLayer } from "../kit/images/fake-registry.ts";
import { makeTar } from "../kit/images/layers.ts";
import { runTool } from "../kit/images/run.ts";
import { reasonOf, TestStore } from "../kit/images/store.ts";
import { testImage } from "../kit/images.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(60_000);

const MIB = 1 << 20;

let scratch: string;
let registry: FakeRegistry;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "lev-stock-"));
  registry = new FakeRegistry();
});
afterAll(async () => {
  await registry[Symbol.asyncDispose]();
  await rm(scratch, { recursive: true, force: true });
});

function push(name: string, bytes = 10_000): string {
  const data = Buffer.from(
    Array.from({ length: Math.ceil(bytes / 65_536) }, () =>
      crypto.getRandomValues(new Uint8Array(65_536)),
    ).flatMap((part) => [...part]),
  )
    .subarray(0, bytes)
    .toString("latin1");
  return registry.addImage(name, [gzipLayer(makeTar([{ name, kind: "file", data }]))]).reference;
}

test("images are listed with their names, and a tag that moves takes its name along", async () => {
  await using own = new TestStore();
  const reference = push("named");
  const first = await own.store.ensure(reference);
  const before = own.store.changes;
  push("named");
  const second = await own.store.ensure(reference);
  expect(second.digest).not.toBe(first.digest);
  await own.store.ensure(reference.replace(":latest", `@${first.digest}`));
  const listed = await own.store.list();
  expect(own.store.changes).toBeGreaterThan(before);
  const names = new Map(listed.map(({ digest, references }) => [digest, references]));
  expect(names.get(second.digest)).toEqual([reference]);
  expect(names.get(first.digest)).toEqual([reference.replace(":latest", `@${first.digest}`)]);
  // Another run of the agent knows them too.
  await using again = new TestStore({}, own.dir);
  expect(await again.store.list()).toEqual(listed);
});

test("what a machine needs, what is pinned and what is not there cannot be removed", async () => {
  const dir = join(scratch, "remove");
  const builder = new ImageBuilder(dir, { mirrors: [], insecure: [] }, systemClock, () => {});
  const [a, b] = [
    await builder.ensure(push("a"), () => {}),
    await builder.ensure(push("b"), () => {}),
  ];
  const stock = await builder.stock();
  await stock.pin(a.digest, true);
  builder.setRoots([b.digest]);
  for (const { digest } of [a, b])
    expect(await reasonOf(stock.remove(digest))).toBe("IMAGE_IN_USE");
  expect(await reasonOf(stock.remove(`sha256:${"0".repeat(64)}`))).toBe("IMAGE_NOT_FOUND");
  expect(await reasonOf(stock.pin(`sha256:${"0".repeat(64)}`, true))).toBe("IMAGE_NOT_FOUND");
  expect((await stock.prune(true)).digests).toEqual([]);
  builder.setRoots([]);
  expect(await stock.remove(b.digest)).toEqual({ digests: [b.digest], freedBytes: b.sizeBytes });
  await stock.pin(a.digest, false);
  // It was used just now: not even --all takes what a machine may be getting.
  expect((await stock.prune(true)).digests).toEqual([]);
  expect((await stock.list()).map(({ digest }) => digest)).toEqual([a.digest]);
  await builder.close();
});

test("what was loaded stays when the disk runs full, blobs before it is built and the image after", async () => {
  const dir = join(scratch, "kept");
  let room: DiskRoom = { freeBytes: 2 ** 40, totalBytes: 2 ** 41 };
  const builder = new ImageBuilder(
    dir,
    { mirrors: [], insecure: [] },
    systemClock,
    () => {},
    () => Promise.resolve(room),
  );
  const archive = join(scratch, "kept.tar");
  const layout = await testImage("busybox");
  await runTool([
    "skopeo",
    "copy",
    "--quiet",
    "--insecure-policy",
    `oci:${layout}:latest`,
    `oci-archive:${archive}`,
  ]);
  const { reference, digest } = await loadImage(archive, join(dir, "blobs"), systemClock);
  const full = { freeBytes: 0, totalBytes: 2 ** 41 };
  room = full;
  expect((await builder.collect()).blobs).toBe(0);
  room = { freeBytes: 2 ** 40, totalBytes: 2 ** 41 };
  expect((await builder.ensure(reference, () => {})).digest).toBe(digest);
  room = full;
  expect((await builder.collect()).blobs).toBeGreaterThan(1);
  expect((await (await builder.stock()).prune(true)).digests).toEqual([]);
  expect((await (await builder.stock()).list()).map((image) => image.digest)).toEqual([digest]);
  await builder.close();
});

test("two builds that do not fit on the disk together are built one after the other", async () => {
  const dir = join(scratch, "room");
  const gate = Promise.withResolvers<void>();
  let held = 0;
  registry.hook = async (request, path) => {
    if (request.method === "GET" && path.startsWith("/v2/big-") && path.includes("/blobs/")) {
      held += 1;
      await gate.promise;
    }
    return undefined;
  };
  // Each needs its size twice, to fetch and to write.
  const room = { freeBytes: 3 * MIB, totalBytes: 4 * MIB };
  const builder = new ImageBuilder(
    dir,
    { mirrors: [], insecure: [] },
    systemClock,
    () => {},
    () => Promise.resolve(room),
  );
  try {
    const [first, second] = [push("big-1", MIB), push("big-2", MIB)];
    const seen: ImageProgress[] = [];
    const one = builder.ensure(first, () => {});
    await until("the first to fetch", () => held > 0);
    const two = builder.ensure(second, (progress) => void seen.push(progress));
    await until("the second to be queued", () => seen.some(({ phase }) => phase === "queued"));
    const asked = (name: string): boolean =>
      registry.hits.some(({ path }) => path.includes(`${name}/blobs/`));
    expect([asked("big-1"), asked("big-2")]).toEqual([true, false]);
    gate.resolve();
    await one;
    await two;
    expect(asked("big-2")).toBe(true);
  } finally {
    registry.hook = () => undefined;
    await builder.close();
  }
});

test("a private image is given to whom its password lets in, and to nobody on his account", async () => {
  const reference = push("private");
  const wanted = `Basic ${Buffer.from("user:secret").toString("base64")}`;
  registry.hook = (request, path) => {
    const { headers } = request;
    if (!path.startsWith("/v2/private/") || headers.get("authorization") === wanted)
      return undefined;
    return new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="x"' } });
  };
  try {
    await using own = new TestStore();
    const login = { registry: registry.host, username: "user", password: "secret" };
    const ensure = (password: string | null, host = registry.host): Promise<string> =>
      reasonOf(
        own.store.ensure(reference, {
          login: password === null ? null : { ...login, password, registry: host },
        }),
      );
    expect(await ensure(null)).toBe("IMAGE_UNAUTHORIZED");
    expect(await ensure("wrong")).toBe("IMAGE_UNAUTHORIZED");
    // Meant for another registry, it is not even shown to this one.
    expect(await ensure("secret", "elsewhere.example")).toBe("IMAGE_UNAUTHORIZED");
    expect(await ensure("secret")).toBe("built");
    // It lies here now, and the registry is asked all the same.
    expect(await ensure(null)).toBe("IMAGE_UNAUTHORIZED");
    expect(await ensure("wrong")).toBe("IMAGE_UNAUTHORIZED");
    const both = await Promise.all([ensure("secret"), ensure(null)]);
    expect(both).toEqual(["built", "IMAGE_UNAUTHORIZED"]);
  } finally {
    registry.hook = () => undefined;
  }
});
