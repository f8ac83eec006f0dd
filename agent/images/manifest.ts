/**
 * Manifests, indexes and configs: OCI image-spec v1.1 and Docker's schema 2, which differ in
 * media types only. Everything is checked here; after this file a manifest is data to trust
 * in shape, never in content.
 */
import { z } from "zod";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { isDigest } from "../../proto/image-reference.ts";
import type { ImageConfig } from "./types.ts";

export const PLATFORM = { os: "linux", architecture: "amd64" } as const;

const OCI_INDEX = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIGS = [
  "application/vnd.oci.image.config.v1+json",
  "application/vnd.docker.container.image.v1+json",
];
const LAYER =
  /^application\/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(foreign\.)?diff\.tar)([.+](gzip|zstd))?$/;

export const MANIFEST_ACCEPT = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");

const Descriptor = z.object({
  mediaType: z.string().default(""),
  digest: z.string().refine(isDigest, "not a sha256 digest"),
  size: z.int().min(0),
});
export type Descriptor = z.infer<typeof Descriptor>;

const Platform = z.object({
  os: z.string().default(""),
  architecture: z.string().default(""),
  variant: z.string().optional(),
});

const Index = z.object({
  manifests: z.array(Descriptor.extend({ platform: Platform.optional() })).max(10_000),
});
export type Index = z.infer<typeof Index>;

const Manifest = z.object({ config: Descriptor, layers: z.array(Descriptor) });
export type Manifest = z.infer<typeof Manifest>;

const strings = z.array(z.string()).nullish();
const Config = z.object({
  os: z.string().default(""),
  architecture: z.string().default(""),
  variant: z.string().optional(),
  rootfs: z.object({ diff_ids: z.array(z.string().refine(isDigest, "not a sha256 digest")) }),
  config: z
    .object({
      Entrypoint: strings,
      Cmd: strings,
      Env: strings,
      User: z.string().nullish(),
      WorkingDir: z.string().nullish(),
      StopSignal: z.string().nullish(),
    })
    .nullish(),
});
type Config = z.infer<typeof Config>;

export type Document = { kind: "index"; index: Index } | { kind: "manifest"; manifest: Manifest };

/** `image` is for messages. Throws IMAGE_CORRUPT or IMAGE_UNSUPPORTED. */
export function parseDocument(bytes: Uint8Array, contentType: string, image: string): Document {
  const json = parseJson(bytes, "manifest", image);
  const header = z
    .object({ mediaType: z.string().optional(), schemaVersion: z.number().optional() })
    .safeParse(json).data;
  const type = header?.mediaType ?? contentType.replace(/;.*$/, "").trim();
  if (header?.schemaVersion === 1 || type.includes("distribution.manifest.v1"))
    throw new LvError(
      "IMAGE_UNSUPPORTED",
      `Image "${image}" has a Docker schema 1 manifest, a format given up in 2019; push it again`,
    );
  const isIndex =
    type === OCI_INDEX ||
    type === DOCKER_LIST ||
    (type !== OCI_MANIFEST && type !== DOCKER_MANIFEST && hasKey(json, "manifests"));
  if (isIndex) return { kind: "index", index: check(Index, json, "index", image) };
  const manifest = check(Manifest, json, "manifest", image);
  if (!CONFIGS.includes(manifest.config.mediaType))
    throw new LvError(
      "IMAGE_UNSUPPORTED",
      `"${image}" is not a container image: its config is "${manifest.config.mediaType}"`,
    );
  if (manifest.layers.length > LIMITS.imageLayers)
    throw new LvError(
      "IMAGE_TOO_LARGE",
      `Image "${image}" has ${manifest.layers.length} layers; the limit is ${LIMITS.imageLayers}`,
    );
  for (const layer of manifest.layers)
    if (!LAYER.test(layer.mediaType))
      throw new LvError(
        "IMAGE_UNSUPPORTED",
        `Image "${image}" has a layer of type "${layer.mediaType}", which is not a tar layer`,
      );
  return { kind: "manifest", manifest };
}

/** The entry for this platform. Throws IMAGE_PLATFORM_MISSING naming what there is. */
export function choosePlatform(index: Index, image: string): Descriptor {
  // Build attestations ride along as platform unknown/unknown (BuildKit).
  const offered = index.manifests.filter(
    ({ platform }) => platform === undefined || platform.os !== "unknown",
  );
  const fitting = offered.filter(
    ({ platform }) =>
      platform?.os === PLATFORM.os && platform.architecture === PLATFORM.architecture,
  );
  // amd64 without a variant is v1; v2 and up need CPU features we do not promise.
  const best = fitting.find((d) => [undefined, "", "v1"].includes(d.platform?.variant));
  const chosen = best ?? fitting[0] ?? offered.find(({ platform }) => platform === undefined);
  if (chosen !== undefined) return chosen;
  throw platformMissing(
    image,
    offered.map(({ platform }) => platform ?? { os: "", architecture: "" }),
  );
}

export type CheckedConfig = { diffIds: string[]; config: ImageConfig };

/** Throws IMAGE_CORRUPT or IMAGE_PLATFORM_MISSING. */
export function parseConfig(bytes: Uint8Array, layers: number, image: string): CheckedConfig {
  const config = check(Config, parseJson(bytes, "config", image), "config", image);
  if (config.os !== PLATFORM.os || config.architecture !== PLATFORM.architecture)
    throw platformMissing(image, [config]);
  if (config.rootfs.diff_ids.length !== layers)
    throw new LvError(
      "IMAGE_CORRUPT",
      `Image "${image}" has ${layers} layers but its config lists ${config.rootfs.diff_ids.length}`,
    );
  return { diffIds: config.rootfs.diff_ids, config: machineConfig(config) };
}

function machineConfig({ config }: Config): ImageConfig {
  return {
    entrypoint: config?.Entrypoint ?? null,
    cmd: config?.Cmd ?? null,
    env: config?.Env ?? [],
    user: config?.User ?? "",
    workingDir: config?.WorkingDir ?? "",
    stopSignal: config?.StopSignal ?? "",
  };
}

function platformMissing(image: string, offered: z.infer<typeof Platform>[]): LvError {
  const names = offered.map((p) => {
    const variant = p.variant === undefined || p.variant === "" ? "" : `/${p.variant}`;
    return `${p.os || "?"}/${p.architecture || "?"}${variant}`;
  });
  const list = [...new Set(names)].slice(0, 20).join(", ");
  return new LvError(
    "IMAGE_PLATFORM_MISSING",
    `Image "${image}" is not made for ${PLATFORM.os}/${PLATFORM.architecture}; it offers ${list || "nothing"}`,
  );
}

function hasKey(json: unknown, key: string): boolean {
  return typeof json === "object" && json !== null && key in json;
}

function parseJson(bytes: Uint8Array, what: string, image: string): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new LvError("IMAGE_CORRUPT", `The ${what} of image "${image}" is not JSON`, { cause });
  }
}

function check<T>(schema: z.ZodType<T>, json: unknown, what: string, image: string): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new LvError(
    "IMAGE_CORRUPT",
    `The ${what} of image "${image}" is malformed at "${issue?.path.join(".") ?? ""}": ${issue?.message ?? ""}`,
    { cause: result.error },
  );
}
