/**
 * A registry of the tests' own on a free loopback port: images made of tars in memory, a log
 * of every request, and a hook that may answer in its place as badly as the test likes.
 */
import { gzipSync } from "node:zlib";

export type Layer = {
  /** As it lies in the registry. */
  blob: Uint8Array;
  /** sha256 of the tar inside. */
  diffId: string;
};

export type Descriptor = { mediaType: string; digest: string; size: number };
export type FakeImage = { reference: string; digest: string; layers: Descriptor[] };

export type Hit = { method: string; path: string; range: string | null; status: number };

/** Answers instead of the registry; undefined = let it answer. `count` = hits of this path. */
export type Hook = (
  request: Request,
  path: string,
  count: number,
) => Response | Promise<Response | undefined> | undefined;

const LAYER = "application/vnd.oci.image.layer.v1.tar+gzip";
export const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const CONFIG = "application/vnd.oci.image.config.v1+json";

export const digestOf = (bytes: Uint8Array | string): string =>
  `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;

export const gzipLayer = (tar: Uint8Array, level = 1): Layer => ({
  blob: gzipSync(tar, { level }),
  diffId: digestOf(tar),
});

export class FakeRegistry {
  readonly #server: Bun.Server<undefined>;
  readonly #blobs = new Map<string, Uint8Array>();
  readonly #manifests = new Map<string, Uint8Array>();
  readonly #counts = new Map<string, number>();
  readonly hits: Hit[] = [];
  hook: Hook = () => undefined;
  constructor() {
    this.#server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      idleTimeout: 0,
      fetch: (request) => this.#answer(request),
    });
  }

  get host(): string {
    return `127.0.0.1:${this.#server.port}`;
  }

  get url(): string {
    return `http://${this.host}`;
  }

  addBlob(bytes: Uint8Array, mediaType: string): Descriptor {
    const digest = digestOf(bytes);
    this.#blobs.set(digest, bytes);
    return { mediaType, digest, size: bytes.length };
  }

  /** `change` sees the manifest before it is stored. */
  addImage(
    name: string,
    layers: readonly Layer[],
    change: (manifest: { config: Descriptor; layers: Descriptor[] }) => unknown = (m) => m,
  ): FakeImage {
    const rootfs = { type: "layers", diff_ids: layers.map(({ diffId }) => diffId) };
    const config = { os: "linux", architecture: "amd64", config: { Cmd: ["/x"] }, rootfs };
    const descriptors = layers.map(({ blob }) => this.addBlob(blob, LAYER));
    const manifest = {
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: this.addBlob(Buffer.from(JSON.stringify(config)), CONFIG),
      layers: descriptors,
    };
    const bytes = Buffer.from(JSON.stringify(change(manifest)));
    this.addManifest(name, bytes);
    const reference = `${this.host}/${name}:latest`;
    return { reference, digest: digestOf(bytes), layers: descriptors };
  }

  addManifest(name: string, bytes: Uint8Array): void {
    this.#manifests.set(`${name}/manifests/latest`, bytes);
    this.#manifests.set(`${name}/manifests/${digestOf(bytes)}`, bytes);
  }

  /** GETs of blobs, by digest. */
  blobHits(): Hit[] {
    return this.hits.filter(({ method, path }) => method === "GET" && path.includes("/blobs/"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.stop(true);
  }

  async #answer(request: Request): Promise<Response> {
    const path = new URL(request.url).pathname;
    const count = (this.#counts.get(path) ?? 0) + 1;
    this.#counts.set(path, count);
    const range = request.headers.get("range");
    const hit = { method: request.method, path, range, status: 0 };
    this.hits.push(hit);
    const response = (await this.hook(request, path, count)) ?? this.serve(request);
    hit.status = response.status;
    return response;
  }

  /** What an honest registry answers. */
  serve(request: Request): Response {
    const path = new URL(request.url).pathname;
    const manifest = this.#manifests.get(path.replace("/v2/", ""));
    if (manifest !== undefined)
      return new Response(request.method === "HEAD" ? null : manifest, {
        headers: { "content-type": MANIFEST, "docker-content-digest": digestOf(manifest) },
      });
    const blob = this.#blobs.get(/\/blobs\/(sha256:\w+)$/.exec(path)?.[1] ?? "");
    if (blob === undefined) return new Response("", { status: 404 });
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
    if (from === 0) return new Response(blob);
    if (from >= blob.length) return new Response("", { status: 416 });
    return new Response(blob.subarray(from), {
      status: 206,
      headers: { "content-range": `bytes ${from}-${blob.length - 1}/${blob.length}` },
    });
  }
}
