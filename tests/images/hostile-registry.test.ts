/** Pulls from a registry that lies, stalls, loops and refuses: a typed error or, after a retry, the image. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeRegistry, gzipLayer, type Hook } from "../kit/images/fake-registry.ts";
import { makeTar } from "../kit/images/layers.ts";
import { QUICK, reasonOf, TestStore } from "../kit/images/store.ts";

setDefaultTimeout(60_000);

/** Does not compress, so that a blob has a middle. */
const noise = (length: number): string =>
  Buffer.from(crypto.getRandomValues(new Uint8Array(length))).toString("latin1");
const LAYERS = [
  gzipLayer(makeTar([{ name: "a", kind: "file", data: noise(60_000) }])),
  gzipLayer(makeTar([{ name: "b", kind: "file", data: noise(60_000) }])),
];

const isBlob = (path: string): boolean => path.includes("/blobs/");
const isFirst = (path: string, image: { layers: { digest: string }[] }): boolean =>
  path.endsWith(image.layers[0]?.digest ?? "-");

/** A body that gives `bytes` and then nothing, or ends. */
function body(bytes: Uint8Array, then: "stall" | "close"): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller): void {
      controller.enqueue(bytes);
      if (then === "close") controller.close();
    },
  });
}

const whole = async (registry: FakeRegistry, request: Request): Promise<Uint8Array> => {
  const plain = new Request(request.url, { method: "GET" });
  return new Uint8Array(await registry.serve(plain).arrayBuffer());
};

let outside: string;
beforeAll(() => {
  outside = mkdtempSync(join(tmpdir(), "lev-outside-"));
});
afterAll(() => rm(outside, { recursive: true, force: true }));

async function pull(
  hook: (registry: FakeRegistry, image: { layers: { digest: string }[] }) => Hook,
): Promise<{ reason: string; registry: FakeRegistry; seconds: number; leftovers: string[] }> {
  await using registry = new FakeRegistry();
  await using own = new TestStore({ timeouts: QUICK });
  const image = registry.addImage("a", LAYERS);
  registry.hook = hook(registry, image);
  const started = performance.now();
  const reason = await reasonOf(own.store.ensure(image.reference));
  const seconds = (performance.now() - started) / 1000;
  const leftovers = reason === "built" ? [] : own.leftovers();
  // A pull that may be tried again keeps what it has under its own, unfinished name.
  const kept = reason === "REGISTRY_UNAVAILABLE" ? /\.part$/ : /^$/;
  return { reason, registry, seconds, leftovers: leftovers.filter((name) => !kept.test(name)) };
}

describe.concurrent("a registry that recovers costs time, not the image:", () => {
  const refusals = [
    [429, "1"],
    [503, "1"],
    [503, null],
    [500, null],
    [429, new Date(Date.now() + 1000).toUTCString()],
  ] as const;
  for (const [status, after] of refusals)
    test(`${status} with Retry-After ${after ?? "missing"}, twice for every request`, async () => {
      const headers: Record<string, string> = after === null ? {} : { "retry-after": after };
      const { reason, registry } = await pull(
        () => (_request, _path, count) =>
          count < 3 ? new Response("", { status, headers }) : undefined,
      );
      expect(reason).toBe("built");
      expect(registry.hits.filter((hit) => hit.status === status).length).toBeGreaterThanOrEqual(8);
    });

  test("a body that stalls in the middle, once for every blob", async () => {
    const { reason, registry } = await pull((fake) => async (request, path, count) => {
      if (!isBlob(path) || count > 1) return fake.serve(request);
      return new Response(body((await whole(fake, request)).subarray(0, 20), "stall"));
    });
    expect(reason).toBe("built");
    expect(registry.blobHits().some(({ range }) => range === "bytes=20-")).toBe(true);
  });

  test("a body that ends early, nine times at nine places", async () => {
    const { reason, registry } = await pull((fake, image) => async (request, path, count) => {
      if (!isFirst(path, image) || count > 9) return fake.serve(request);
      const from = Number(/\d+/.exec(request.headers.get("range") ?? "0")?.[0]);
      const bytes = (await whole(fake, request)).subarray(from, count * 5_000);
      const headers: Record<string, string> =
        from > 0 ? { "content-range": `bytes ${from}-99999/*` } : {};
      return new Response(body(bytes, "close"), { status: from > 0 ? 206 : 200, headers });
    });
    expect(reason).toBe("built");
    expect(registry.blobHits().length).toBeGreaterThanOrEqual(10);
  });

  test("a range answered with the whole blob, or with another range", async () => {
    for (const lie of ["whole", "other"] as const) {
      const { reason } = await pull((fake, image) => async (request, path, count) => {
        if (!isFirst(path, image) || count > 2) return fake.serve(request);
        const bytes = await whole(fake, request);
        if (count === 1) return new Response(body(bytes.subarray(0, 30_000), "close"));
        if (lie === "whole") return new Response(bytes);
        return new Response(bytes.subarray(100), {
          status: 206,
          headers: { "content-range": `bytes 100-${bytes.length - 1}/${bytes.length}` },
        });
      });
      expect(reason).toBe("built");
    }
  });

  test("other bytes for the rest than the first answer had", async () => {
    const { reason } = await pull((fake, image) => async (request, path, count) => {
      if (!isFirst(path, image) || count > 1) return fake.serve(request);
      const bytes = (await whole(fake, request)).subarray(0, 30_000).fill(7);
      return new Response(body(bytes, "close"));
    });
    expect(reason).toBe("built");
  });
});

describe.concurrent("a registry that does not recover is a typed error in bounded time:", () => {
  const always: [
    string,
    string,
    (fake: FakeRegistry, image: { layers: { digest: string }[] }) => Hook,
  ][] = [
    ["429 for ever", "REGISTRY_UNAVAILABLE", () => () => new Response("", { status: 429 })],
    [
      "503 for every blob",
      "REGISTRY_UNAVAILABLE",
      () => (_request, path) => (isBlob(path) ? new Response("", { status: 503 }) : undefined),
    ],
    ["no answer at all", "REGISTRY_UNAVAILABLE", () => () => new Promise(() => undefined)],
    [
      "a manifest that never ends",
      "REGISTRY_UNAVAILABLE",
      () => (request, path) =>
        path.includes("manifests") && request.method === "GET"
          ? new Response(body(Buffer.from("{"), "stall"))
          : undefined,
    ],
    [
      "blobs without a byte",
      "IMAGE_CORRUPT",
      () => (_request, path) =>
        isBlob(path) ? new Response(body(new Uint8Array(0), "close")) : undefined,
    ],
    [
      "redirects to itself",
      "REGISTRY_UNAVAILABLE",
      () => (request) => new Response("", { status: 307, headers: { location: request.url } }),
    ],
    [
      "redirects to another scheme",
      "REGISTRY_UNAVAILABLE",
      () => (_request, path) =>
        isBlob(path)
          ? new Response("", { status: 307, headers: { location: "file:///etc/passwd" } })
          : undefined,
    ],
    [
      "every second answer takes back what the first one gave",
      "REGISTRY_UNAVAILABLE",
      (fake, image) => async (request, path, count) => {
        if (!isFirst(path, image)) return fake.serve(request);
        if (count % 2 === 0) return new Response("", { status: 416 });
        return new Response(body((await whole(fake, request)).subarray(0, 10_000), "close"));
      },
    ],
    [
      "a blob with another digest",
      "IMAGE_CORRUPT",
      (fake, image) => async (request, path) =>
        isFirst(path, image)
          ? new Response((await whole(fake, request)).fill(1, 50, 60))
          : undefined,
    ],
    [
      "a blob longer than it says",
      "IMAGE_CORRUPT",
      (fake, image) => async (request, path) =>
        isFirst(path, image)
          ? new Response(
              body(Buffer.concat([await whole(fake, request), Buffer.alloc(1 << 20)]), "close"),
            )
          : undefined,
    ],
    [
      "a Content-Length that lies",
      "IMAGE_CORRUPT",
      (_fake, image) => (_request, path) =>
        isFirst(path, image) ? new Response(new Uint8Array(5)) : undefined,
    ],
    [
      "a blob that is gone",
      "IMAGE_CORRUPT",
      (_fake, image) => (_request, path) =>
        isFirst(path, image) ? new Response("", { status: 404 }) : undefined,
    ],
    [
      "blobs that are refused",
      "IMAGE_UNAUTHORIZED",
      () => (_request, path) => (isBlob(path) ? new Response("", { status: 403 }) : undefined),
    ],
    [
      "a manifest of 10 MB",
      "IMAGE_TOO_LARGE",
      () => (request, path) =>
        path.includes("manifests") && request.method === "GET"
          ? new Response(`{"x":"${"y".repeat(10 << 20)}"}`)
          : undefined,
    ],
    [
      "a token of 10 MB",
      "REGISTRY_UNAVAILABLE",
      (fake) => (_request, path) =>
        path === "/token"
          ? new Response(`{"token":"${"y".repeat(10 << 20)}"}`)
          : new Response("", {
              status: 401,
              headers: { "www-authenticate": `Bearer realm="${fake.url}/token"` },
            }),
    ],
  ];
  for (const [what, reason, hook] of always)
    test(`${what}: ${reason}`, async () => {
      const end = await pull(hook);
      expect([end.reason, end.leftovers]).toEqual([reason, []]);
      expect(end.seconds).toBeLessThan(40);
      expect(end.registry.hits.length).toBeLessThan(60);
    });
});

test("a digest header that is a path touches no file outside", async () => {
  const victim = join(outside, "victim");
  await Bun.write(victim, "mine");
  const path = `sha256:${"../".repeat(30)}${victim.slice(1)}`;
  const { reason } = await pull(
    () => (request) =>
      request.method === "HEAD"
        ? new Response(null, { headers: { "docker-content-digest": path } })
        : undefined,
  );
  expect(reason).toBe("built");
  expect(await Bun.file(victim).text()).toBe("mine");
});

describe.concurrent("a manifest that lies", () => {
  const digest = `sha256:${"a".repeat(64)}`;
  const lies: [string, string, (m: { layers: object[]; config: object }) => unknown][] = [
    [
      "a layer digest that is a path",
      "IMAGE_CORRUPT",
      (m) => ({ ...m, layers: [{ ...m.layers[0], digest: "sha256:../../../x" }] }),
    ],
    [
      "a size below zero",
      "IMAGE_CORRUPT",
      (m) => ({ ...m, layers: [{ ...m.layers[0], size: -1 }] }),
    ],
    [
      "a size that is smaller",
      "IMAGE_CORRUPT",
      (m) => ({ ...m, layers: [{ ...m.layers[0], size: 10 }, m.layers[1]] }),
    ],
    [
      "a size that is larger",
      "IMAGE_CORRUPT",
      (m) => ({ ...m, layers: [{ ...m.layers[0], size: 999_999 }, m.layers[1]] }),
    ],
    [
      "a config of 9 MiB",
      "IMAGE_TOO_LARGE",
      (m) => ({ ...m, config: { ...m.config, size: 9 << 20 } }),
    ],
    [
      "fewer diff_ids than layers",
      "IMAGE_CORRUPT",
      (m) => ({ ...m, layers: [m.layers[0], m.layers[1], m.layers[1]] }),
    ],
    [
      "2000 layers",
      "IMAGE_TOO_LARGE",
      (m) => ({ ...m, layers: Array.from({ length: 2000 }, () => m.layers[0]) }),
    ],
    [
      "layers in another order than its diff_ids",
      "IMAGE_CORRUPT",
      (m) => ({ ...m, layers: m.layers.toReversed() }),
    ],
    [
      "a config blob nobody has",
      "IMAGE_CORRUPT",
      (m) => ({ ...m, config: { ...m.config, digest } }),
    ],
  ];
  for (const [what, reason, change] of lies)
    test(`${what}: ${reason}`, async () => {
      await using registry = new FakeRegistry();
      await using own = new TestStore({ timeouts: QUICK });
      const image = registry.addImage("a", LAYERS, change);
      expect(await reasonOf(own.store.ensure(image.reference))).toBe(reason);
      expect(own.leftovers()).toEqual([]);
    });

  test("an index that names itself in circles: IMAGE_UNSUPPORTED", async () => {
    await using registry = new FakeRegistry();
    await using own = new TestStore({ timeouts: QUICK });
    const index = (inner: string): Uint8Array =>
      Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: "application/vnd.oci.image.index.v1+json",
          manifests: [{ mediaType: "", digest: inner, size: 1 }],
        }),
      );
    // A digest cannot name itself: a chain longer than anybody's image is as near as one comes.
    let inner = digest;
    for (let depth = 0; depth < 8; depth += 1) {
      const bytes = index(inner);
      registry.addManifest("a", bytes);
      inner = `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
    }
    expect(await reasonOf(own.store.ensure(`${registry.host}/a:latest`))).toBe("IMAGE_UNSUPPORTED");
    expect(own.leftovers()).toEqual([]);
  });
});
