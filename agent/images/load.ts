/**
 * Brings an image from disk into a store's blobs, where a pull by digest finds it without a
 * registry: OCI layout directory, oci-archive, docker-archive (`docker save`).
 *
 * Only adds blobs, each under its final name at once, so that it may run beside the agent whose
 * store it is. Building is left to the agent.
 */
import { z } from "zod";
import type { Clock } from "../../lib/clock.ts";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { BlobStore } from "./blobs.ts";
import { LoadedImages } from "./loaded.ts";
import { openImageFiles, readSmall, type ImageFiles } from "./image-files.ts";
import { choosePlatform, parseConfig, parseDocument, type Manifest } from "./manifest.ts";
import { formatReference, parseReference } from "../../proto/image-reference.ts";

const INDEX_DEPTH = 3;
const REF_NAME = "org.opencontainers.image.ref.name";
const DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar";
const OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";

const Named = z.object({
  manifests: z.array(z.looseObject({ annotations: z.record(z.string(), z.string()).optional() })),
});
const DockerManifest = z.array(
  z.object({
    Config: z.string(),
    RepoTags: z.array(z.string()).nullish(),
    Layers: z.array(z.string()).max(LIMITS.imageLayers),
  }),
);

/** `reference` names the image by digest, for a machine's config. */
export type Loaded = { digest: string; reference: string };

/**
 * `path` holds the image; `tag` chooses among several. `blobsDir` as the store's `blobs/`.
 * Throws BAD_REQUEST, IMAGE_CORRUPT, IMAGE_UNSUPPORTED, IMAGE_TOO_LARGE, IMAGE_PLATFORM_MISSING.
 */
export async function loadImage(
  path: string,
  blobsDir: string,
  clock: Clock,
  tag: string | null = null,
): Promise<Loaded> {
  await using files = await openImageFiles(path, blobsDir);
  const claim = new LoadedImages(blobsDir, clock).claim();
  const blobs = { store: new BlobStore(blobsDir, clock), claim };
  if (await files.has("index.json")) return await loadOci(files, blobs, path, tag);
  if (await files.has("manifest.json")) return await loadDocker(files, blobs, path, tag);
  throw new LvError("BAD_REQUEST", `"${path}" has neither index.json nor manifest.json: no image`);
}

/** Where blobs go, and who says beforehand that they are not to be collected. */
type Target = { store: BlobStore; claim: (digest: string) => Promise<void> };

const blobName = (digest: string): string => `blobs/${digest.replace(":", "/")}`;

async function loadOci(
  files: ImageFiles,
  blobs: Target,
  path: string,
  tag: string | null,
): Promise<Loaded> {
  let bytes = await readSmall(files, "index.json", LIMITS.manifestBytes);
  const { narrowed, name } = chooseNamed(bytes, path, tag);
  bytes = narrowed;
  for (let depth = 0; depth < INDEX_DEPTH; depth += 1) {
    const document = parseDocument(bytes, "", path);
    if (document.kind === "manifest") {
      const digest = await takeManifest(files, blobs, bytes, document.manifest, path);
      return { digest, reference: nameOf(name, digest) };
    }
    const { digest } = choosePlatform(document.index, path);
    bytes = await readSmall(files, blobName(digest), LIMITS.manifestBytes);
    checkDigest(bytes, digest);
  }
  throw new LvError("IMAGE_UNSUPPORTED", `"${path}" has an index of indexes of indexes`);
}

/** The index with the one image that is meant. */
function chooseNamed(
  bytes: Uint8Array,
  path: string,
  tag: string | null,
): { narrowed: Uint8Array; name: string | null } {
  const index = Named.safeParse(parseJson(bytes, path)).data;
  if (index === undefined) return { narrowed: bytes, name: null };
  const nameOfEntry = (entry: (typeof index.manifests)[number]): string | undefined =>
    entry.annotations?.[REF_NAME];
  const names = [...new Set(index.manifests.map(nameOfEntry).filter((n) => n !== undefined))];
  const wanted = tag ?? (names.length === 1 ? (names[0] ?? null) : null);
  if (wanted === null && names.length > 1)
    throw new LvError("BAD_REQUEST", `"${path}" holds ${names.join(", ")}: choose one with --tag`);
  if (wanted === null) return { narrowed: bytes, name: null };
  const manifests = index.manifests.filter((entry) => nameOfEntry(entry) === wanted);
  if (manifests.length === 0)
    throw new LvError("BAD_REQUEST", `"${path}" has no "${wanted}"; it holds ${names.join(", ")}`);
  return { narrowed: Buffer.from(JSON.stringify({ ...index, manifests })), name: wanted };
}

async function takeManifest(
  files: ImageFiles,
  blobs: Target,
  bytes: Uint8Array,
  manifest: Manifest,
  path: string,
): Promise<string> {
  const config = await readSmall(files, blobName(manifest.config.digest), LIMITS.imageConfigBytes);
  parseConfig(config, manifest.layers.length, path);
  for (const { digest } of [manifest.config, ...manifest.layers])
    await blobs.store.take(await files.stream(blobName(digest)), digest, blobs.claim);
  // Last: who finds the manifest finds all of it.
  const digest = digestOf(bytes);
  await put(blobs, digest, bytes);
  return digest;
}

/** `docker save` without an OCI index: plain tars and a list of them. */
async function loadDocker(
  files: ImageFiles,
  blobs: Target,
  path: string,
  tag: string | null,
): Promise<Loaded> {
  const json: unknown = parseJson(
    await readSmall(files, "manifest.json", LIMITS.manifestBytes),
    path,
  );
  const images = DockerManifest.safeParse(json).data ?? [];
  const fitting = images.filter((image) => tag === null || image.RepoTags?.includes(tag) === true);
  const [image] = fitting;
  if (image === undefined || fitting.length > 1) {
    const names = images.flatMap(({ RepoTags }) => RepoTags ?? []).join(", ");
    throw new LvError(
      "BAD_REQUEST",
      `"${path}" holds ${names || "no image"}: choose one with --tag`,
    );
  }
  const config = await readSmall(files, image.Config, LIMITS.imageConfigBytes);
  parseConfig(config, image.Layers.length, path);
  const layers: { mediaType: string; digest: string; size: number }[] = [];
  for (const name of image.Layers)
    layers.push({
      mediaType: DOCKER_LAYER,
      ...(await blobs.store.take(await files.stream(name), null, blobs.claim)),
    });
  await put(blobs, digestOf(config), config);
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: { mediaType: DOCKER_CONFIG, digest: digestOf(config), size: config.length },
      layers,
    }),
  );
  const digest = digestOf(manifest);
  await put(blobs, digest, manifest);
  return { digest, reference: nameOf(tag ?? image.RepoTags?.[0] ?? null, digest) };
}

async function put({ store, claim }: Target, digest: string, bytes: Uint8Array): Promise<void> {
  await claim(digest);
  await store.put(digest, bytes);
}

function parseJson(bytes: Uint8Array, path: string): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (cause) {
    throw new LvError("IMAGE_CORRUPT", `The list of images in "${path}" is not JSON`, { cause });
  }
}

function digestOf(bytes: Uint8Array): string {
  return `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
}

function checkDigest(bytes: Uint8Array, digest: string): void {
  const was = digestOf(bytes);
  if (was !== digest)
    throw new LvError("IMAGE_CORRUPT", `Blob ${digest} is corrupt: its bytes are ${was}`);
}

/** A tag alone is no name; whatever the name is, only the digest counts. */
function nameOf(name: string | null, digest: string): string {
  if (name !== null && /[/:]/.test(name)) {
    const { registry, repository } = parseReference(name);
    return formatReference({ registry, repository, tag: null, digest });
  }
  return `localhost/loaded@${digest}`;
}
