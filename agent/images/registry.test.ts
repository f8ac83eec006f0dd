/** The registry client and downloads against a server on loopback that misbehaves on purpose. */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Clock } from "../../lib/clock.ts";
import { parseChallenges } from "./auth.ts";
import { BlobStore } from "./blobs.ts";
import type { Descriptor } from "./manifest.ts";
import { parseReference } from "../../proto/image-reference.ts";
import { RegistryClient, retryAfterMs } from "./registry.ts";
import { parseInsecure, parseMirrors, registryOrigin } from "./registry-config.ts";
import type { RegistryConfig } from "./types.ts";

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

const never = new AbortController().signal;
/** Time passes at once; what was slept is remembered. */
const slept: number[] = [];
const clock: Clock = {
  now: () => 1_000_000,
  sleep: async (ms) => void slept.push(ms),
};

type Handler = (request: Request, count: number) => Response | Promise<Response>;

function serve(handler: Handler): { host: string; requests: Request[] } {
  const requests: Request[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request) => handler(request, requests.push(request)),
  });
  cleanups.push(() => server.stop(true));
  return { host: `127.0.0.1:${server.port}`, requests };
}

const client = (config: Partial<RegistryConfig> = {}): RegistryClient =>
  new RegistryClient({ mirrors: [], insecure: [], ...config }, clock);

const reasonOf = async (wait: Promise<unknown>): Promise<unknown> =>
  wait.then(
    () => "no error",
    (error: unknown) => (error as { reason?: unknown }).reason ?? error,
  );

describe("RegistryClient", () => {
  test("gets a token from the realm of a 401, once for several requests", async () => {
    const registry = serve((request) => {
      const url = new URL(request.url);
      if (url.pathname === "/token") return Response.json({ token: "T", expires_in: 300 });
      if (request.headers.get("authorization") === "Bearer T") return new Response("{}");
      const challenge = `Bearer realm="${url.origin}/token",service="s",scope="repository:a/b:pull"`;
      return new Response("", { status: 401, headers: { "www-authenticate": challenge } });
    });
    const own = client();
    const reference = parseReference(`${registry.host}/a/b:c`);
    await own.manifest(reference, "c", never);
    await own.manifest(reference, "c", never);
    expect(registry.requests.map(({ url }) => new URL(url).pathname)).toEqual([
      "/v2/a/b/manifests/c",
      "/token",
      "/v2/a/b/manifests/c",
      "/v2/a/b/manifests/c",
    ]);
    const asked = new URL(registry.requests[1]?.url ?? "").searchParams;
    expect([asked.get("service"), asked.get("scope")]).toEqual(["s", "repository:a/b:pull"]);
  });

  test("a token that ran out in the middle is fetched again", async () => {
    let valid = "T1";
    const registry = serve((request) => {
      const url = new URL(request.url);
      if (url.pathname === "/token") return Response.json({ token: valid });
      if (request.headers.get("authorization") === `Bearer ${valid}`) return new Response("{}");
      const challenge = `Bearer realm="${url.origin}/token"`;
      return new Response("", { status: 401, headers: { "www-authenticate": challenge } });
    });
    const own = client();
    const reference = parseReference(`${registry.host}/a:c`);
    await own.manifest(reference, "c", never);
    valid = "T2";
    await own.manifest(reference, "c", never);
    expect(registry.requests.at(-1)?.headers.get("authorization")).toBe("Bearer T2");
  });

  test("credentials go to the registry, never to a realm of another host", async () => {
    const elsewhere = serve(() => Response.json({ token: "T" }));
    const port = elsewhere.host.split(":")[1] ?? "";
    const registry = serve((request) => {
      if (request.headers.has("authorization")) return new Response("{}");
      const challenge = `Bearer realm="http://localhost:${port}/token"`;
      return new Response("", { status: 401, headers: { "www-authenticate": challenge } });
    });
    const credentials = { [registry.host]: { username: "u", password: "p" } };
    await client({ credentials }).manifest(parseReference(`${registry.host}/a:c`), "c", never);
    expect(elsewhere.requests.map(({ headers }) => headers.get("authorization"))).toEqual([null]);
  });

  test("answers Basic with the configured credentials", async () => {
    const registry = serve((request) =>
      request.headers.get("authorization") === `Basic ${btoa("u:p")}`
        ? new Response("{}")
        : new Response("", { status: 401, headers: { "www-authenticate": 'Basic realm="r"' } }),
    );
    const reference = parseReference(`${registry.host}/a:c`);
    const credentials = { [registry.host]: { username: "u", password: "p" } };
    await client({ credentials }).manifest(reference, "c", never);
    expect(await reasonOf(client().manifest(reference, "c", never))).toBe("IMAGE_UNAUTHORIZED");
  });

  test("drops Authorization on a redirect to another origin", async () => {
    const storage = serve(() => new Response("blob"));
    const registry = serve((request) =>
      request.headers.has("authorization")
        ? new Response("", { status: 307, headers: { location: `http://${storage.host}/x` } })
        : new Response("", { status: 401, headers: { "www-authenticate": "Basic" } }),
    );
    const credentials = { [registry.host]: { username: "u", password: "p" } };
    const reference = parseReference(`${registry.host}/a:c`);
    const response = await client({ credentials }).blob(reference, "sha256:0", 0, never);
    expect(await response.text()).toBe("blob");
    expect(storage.requests[0]?.headers.has("authorization")).toBe(false);
  });

  test("a redirect loop ends as REGISTRY_UNAVAILABLE", async () => {
    const registry = serve(() => new Response("", { status: 302, headers: { location: "/v2/" } }));
    const wait = client().manifest(parseReference(`${registry.host}/a:c`), "c", never);
    expect(await reasonOf(wait)).toBe("REGISTRY_UNAVAILABLE");
    expect(registry.requests.length).toBeLessThan(10);
  });

  test("429 waits as long as Retry-After says, then goes on", async () => {
    slept.length = 0;
    const registry = serve((_request, count) =>
      count < 3
        ? new Response("", { status: 429, headers: { "retry-after": "7" } })
        : new Response("{}"),
    );
    await client().manifest(parseReference(`${registry.host}/a:c`), "c", never);
    expect(slept).toEqual([7000, 7000]);
  });

  test("500 again and again is REGISTRY_UNAVAILABLE, 404 is IMAGE_NOT_FOUND", async () => {
    const registry = serve(
      (request) => new Response("", { status: request.url.includes("bad") ? 500 : 404 }),
    );
    const ask = (tag: string): Promise<unknown> =>
      client().manifest(parseReference(`${registry.host}/a:${tag}`), tag, never);
    expect(await reasonOf(ask("bad"))).toBe("REGISTRY_UNAVAILABLE");
    expect(await reasonOf(ask("none"))).toBe("IMAGE_NOT_FOUND");
  });

  test("a manifest that is not its digest is IMAGE_CORRUPT; one without end IMAGE_TOO_LARGE", async () => {
    const registry = serve(
      (request) => new Response(request.url.includes("big") ? new Uint8Array(5 << 20) : "{}"),
    );
    const wrong = `sha256:${"0".repeat(64)}`;
    const reference = parseReference(`${registry.host}/a:big`);
    expect(await reasonOf(client().manifest(reference, wrong, never))).toBe("IMAGE_CORRUPT");
    expect(await reasonOf(client().manifest(reference, "big", never))).toBe("IMAGE_TOO_LARGE");
  });

  test("an abort ends the wait with its own reason", async () => {
    const asked = Promise.withResolvers<void>();
    const registry = serve(async () => {
      asked.resolve();
      return await new Promise<Response>(() => undefined);
    });
    const abort = new AbortController();
    const wait = client().manifest(parseReference(`${registry.host}/a:c`), "c", abort.signal);
    await asked.promise;
    abort.abort(new Error("enough"));
    expect(String(await wait.catch((error: unknown) => error))).toBe("Error: enough");
  });
});

describe("BlobStore", () => {
  const content = Buffer.from("0123456789".repeat(10_000));
  const hex = new Bun.CryptoHasher("sha256").update(content).digest("hex");
  const blob: Descriptor = { mediaType: "", digest: `sha256:${hex}`, size: content.length };

  function store(): { blobs: BlobStore; dir: string; part: string } {
    const dir = mkdtempSync(join(tmpdir(), "lev-blobs-"));
    cleanups.push(() => rm(dir, { recursive: true, force: true }));
    return { blobs: new BlobStore(dir, clock), dir, part: join(dir, "sha256", `${hex}.part`) };
  }

  const source = (host: string) => {
    const reference = parseReference(`${host}/a:c`);
    const own = client();
    return {
      image: "test",
      open: (digest: string, from: number, signal: AbortSignal) =>
        own.blob(reference, digest, from, signal),
      chunks: (response: Response) => own.chunks(response),
    };
  };

  const ranged: Handler = (request) => {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
    if (from === 0) return new Response(content);
    return new Response(content.subarray(from), {
      status: 206,
      headers: { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` },
    });
  };

  const fetchBlob = async (blobs: BlobStore, host: string, signal = never): Promise<string> =>
    (await blobs.fetch(blob, source(host), () => {}, signal)).path;

  const filesIn = (dir: string): string[] => readdirSync(join(dir, "sha256"));

  test("resumes a partial download with a range", async () => {
    const { blobs, dir, part } = store();
    await mkdir(join(dir, "sha256"), { recursive: true });
    await Bun.write(part, content.subarray(0, 40_000));
    const registry = serve(ranged);
    expect(await readFile(await fetchBlob(blobs, registry.host))).toEqual(content);
    expect(registry.requests.map(({ headers }) => headers.get("range"))).toEqual(["bytes=40000-"]);
    expect(filesIn(dir)).toEqual([hex]);
  });

  test("starts again when the registry ignores the range", async () => {
    const { blobs, part } = store();
    await Bun.write(part, content.subarray(0, 40_000));
    const registry = serve(() => new Response(content));
    expect(await readFile(await fetchBlob(blobs, registry.host))).toEqual(content);
  });

  test("a torn partial file costs one clean start, not the image", async () => {
    const { blobs, part } = store();
    await Bun.write(part, "x".repeat(40_000));
    const registry = serve(ranged);
    expect(await readFile(await fetchBlob(blobs, registry.host))).toEqual(content);
    expect(registry.requests.length).toBe(2);
  });

  test("a connection cut in the middle goes on where it was", async () => {
    const { blobs } = store();
    const registry = serve((request, count) => {
      if (count > 1) return ranged(request, count);
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(content.subarray(0, 30_000));
          controller.close();
        },
      });
      return new Response(body);
    });
    expect(await readFile(await fetchBlob(blobs, registry.host))).toEqual(content);
    expect(registry.requests[1]?.headers.get("range")).toBe("bytes=30000-");
  });

  test("wrong bytes are IMAGE_CORRUPT with both digests, and nothing stays", async () => {
    const { blobs, dir } = store();
    const wrong = Buffer.from(content).fill(65, 0, 1);
    const was = new Bun.CryptoHasher("sha256").update(wrong).digest("hex");
    const registry = serve(() => new Response(wrong));
    const error: unknown = await fetchBlob(blobs, registry.host).catch((e: unknown) => e);
    expect(error).toMatchObject({ reason: "IMAGE_CORRUPT" });
    expect(String(error)).toContain(`Blob sha256:${hex}`);
    expect(String(error)).toContain(`its bytes are sha256:${was}`);
    expect(filesIn(dir)).toEqual([]);
  });

  test("another length is IMAGE_CORRUPT without a download", async () => {
    const { blobs } = store();
    const registry = serve(() => new Response(content.subarray(1)));
    const error: unknown = await fetchBlob(blobs, registry.host).catch((e: unknown) => e);
    expect(String(error)).toContain("it is 99999 bytes long instead of 100000");
  });

  test("two fetches at once are one download; the second goes on when the first is stopped", async () => {
    const { blobs } = store();
    const begun = Promise.withResolvers<void>();
    const registry = serve((request, count) => {
      if (count > 1) return ranged(request, count);
      begun.resolve();
      return new Response(new ReadableStream({ start: (c) => c.enqueue(content.subarray(0, 10)) }));
    });
    const abort = new AbortController();
    const first = fetchBlob(blobs, registry.host, abort.signal).catch((e: unknown) => String(e));
    await begun.promise;
    const second = fetchBlob(blobs, registry.host);
    abort.abort(new Error("stopped"));
    expect(await first).toBe("Error: stopped");
    expect(await readFile(await second)).toEqual(content);
  });
});

describe("configuration", () => {
  test("mirrors stand for a host, with the port as a star on both sides", () => {
    const mirrors = parseMirrors("127.0.0.1:*=http://10.0.2.2:*, docker.io=https://m.example/");
    const config = { mirrors, insecure: parseInsecure("reg.example:5000") };
    expect(registryOrigin("127.0.0.1:5000", config)).toBe("http://10.0.2.2:5000");
    expect(registryOrigin("docker.io", config)).toBe("https://m.example");
    expect(registryOrigin("reg.example:5000", config)).toBe("http://reg.example:5000");
    expect(registryOrigin("reg.example", config)).toBe("https://reg.example");
  });

  test("loopback is plain HTTP, Docker Hub has its own API host", () => {
    const config = { mirrors: [], insecure: [] };
    for (const host of ["127.0.0.1:1", "127.9.9.9", "localhost:5", "[::1]:5"])
      expect(registryOrigin(host, config)).toBe(`http://${host}`);
    expect(registryOrigin("docker.io", config)).toBe("https://registry-1.docker.io");
    expect(registryOrigin("127.example.com", config)).toBe("https://127.example.com");
  });

  for (const text of ["a", "a=b", "a=ftp://b", "a:*=http://b:1", "a=http://b/path", "=http://b"])
    test(`"${text}" is no mirror`, () => {
      expect(() => parseMirrors(text)).toThrow(
        expect.objectContaining({ reason: "CONFIG_INVALID" }),
      );
    });

  test("several challenges in one header are told apart", () => {
    const parsed = parseChallenges('Basic realm="a, b", Bearer realm="https://t/x",service=s');
    expect(parsed.map(({ scheme }) => scheme)).toEqual(["basic", "bearer"]);
    expect(parsed[1]?.parameters.get("service")).toBe("s");
    expect(parsed[0]?.parameters.get("realm")).toBe("a, b");
  });

  test("Retry-After is seconds or a date, and bounded", () => {
    expect(retryAfterMs("3", 0)).toBe(3000);
    expect(retryAfterMs("99999", 0)).toBe(20_000);
    expect(retryAfterMs("Thu, 01 Jan 1970 00:00:05 GMT", 1000)).toBe(4000);
    expect(retryAfterMs("soon", 0)).toBeNull();
    expect(retryAfterMs(null, 0)).toBeNull();
  });
});
