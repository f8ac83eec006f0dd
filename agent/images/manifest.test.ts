import { describe, expect, test } from "bun:test";
import { choosePlatform, parseConfig, parseDocument } from "./manifest.ts";

const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;
const OCI = "application/vnd.oci.image";
const DOCKER = "application/vnd.docker";

const manifest = (more: object = {}): object => ({
  schemaVersion: 2,
  mediaType: `${OCI}.manifest.v1+json`,
  config: { mediaType: `${OCI}.config.v1+json`, digest: digest("c"), size: 2 },
  layers: [{ mediaType: `${OCI}.layer.v1.tar+gzip`, digest: digest("a"), size: 3 }],
  ...more,
});

const parse = (value: unknown, type = "") =>
  parseDocument(Buffer.from(JSON.stringify(value)), type, "x/y:z");

const reasonOf = (call: () => unknown): unknown => {
  try {
    return call();
  } catch (error) {
    return (error as { reason: unknown }).reason;
  }
};

describe("parseDocument", () => {
  test("knows OCI and Docker manifests and indexes, by body, header or shape", () => {
    expect(parse(manifest()).kind).toBe("manifest");
    const docker = {
      config: { mediaType: `${DOCKER}.container.image.v1+json`, digest: digest("c"), size: 2 },
      layers: [{ mediaType: `${DOCKER}.image.rootfs.diff.tar.gzip`, digest: digest("a"), size: 3 }],
    };
    expect(parse(docker, `${DOCKER}.distribution.manifest.v2+json; charset=utf-8`).kind).toBe(
      "manifest",
    );
    expect(parse({ manifests: [] }, `${DOCKER}.distribution.manifest.list.v2+json`).kind).toBe(
      "index",
    );
    expect(parse({ mediaType: `${OCI}.index.v1+json`, manifests: [] }).kind).toBe("index");
    expect(parse({ schemaVersion: 2, manifests: [] }).kind).toBe("index");
  });

  const layer = (mediaType: string): object =>
    manifest({ layers: [{ mediaType, digest: digest("a"), size: 3 }] });
  const refused: [string, string, unknown][] = [
    ["IMAGE_UNSUPPORTED", "schema 1", { schemaVersion: 1, fsLayers: [] }],
    ["IMAGE_UNSUPPORTED", "an encrypted layer", layer(`${OCI}.layer.v1.tar+gzip+encrypted`)],
    [
      "IMAGE_UNSUPPORTED",
      "an artifact",
      manifest({
        config: { mediaType: "application/vnd.helm.config", digest: digest("c"), size: 2 },
      }),
    ],
    [
      "IMAGE_CORRUPT",
      "a digest that is none",
      manifest({ layers: [{ mediaType: "", digest: "sha256:../../x", size: 3 }] }),
    ],
    [
      "IMAGE_CORRUPT",
      "a negative size",
      manifest({ layers: [{ mediaType: "", digest: digest("a"), size: -1 }] }),
    ],
    ["IMAGE_CORRUPT", "no layers", manifest({ layers: null })],
    ["IMAGE_CORRUPT", "no object", [1]],
    [
      "IMAGE_TOO_LARGE",
      "200 layers",
      manifest({
        layers: Array.from({ length: 200 }, () => ({
          mediaType: `${OCI}.layer.v1.tar`,
          digest: digest("a"),
          size: 3,
        })),
      }),
    ],
  ];
  for (const [reason, what, value] of refused)
    test(`refuses ${what} as ${reason}`, () => {
      expect(reasonOf(() => parse(value))).toBe(reason);
    });

  test("refuses what is not JSON", () => {
    expect(reasonOf(() => parseDocument(Buffer.from("<html>"), "", "x"))).toBe("IMAGE_CORRUPT");
  });
});

describe("choosePlatform", () => {
  const entry = (letter: string, os: string, architecture: string, variant?: string) => ({
    mediaType: "",
    digest: digest(letter),
    size: 1,
    platform: { os, architecture, variant },
  });

  test("takes linux/amd64 without a variant, wherever it stands, and skips attestations", () => {
    const manifests = [
      entry("0", "unknown", "unknown"),
      entry("1", "linux", "arm64"),
      entry("2", "linux", "amd64", "v3"),
      entry("3", "linux", "amd64"),
    ];
    expect(choosePlatform({ manifests }, "x").digest).toBe(digest("3"));
  });

  test("names what it wanted and what there is", () => {
    const manifests = [
      entry("0", "unknown", "unknown"),
      entry("1", "linux", "arm", "v7"),
      entry("2", "windows", "amd64"),
    ];
    expect(() => choosePlatform({ manifests }, "x/y:z")).toThrow(
      'Image "x/y:z" is not made for linux/amd64; it offers linux/arm/v7, windows/amd64',
    );
  });
});

describe("parseConfig", () => {
  const config = (more: object = {}): Uint8Array =>
    Buffer.from(
      JSON.stringify({
        os: "linux",
        architecture: "amd64",
        rootfs: { type: "layers", diff_ids: [digest("d")] },
        ...more,
      }),
    );

  test("missing and null fields are the image's silence", () => {
    const silent = {
      entrypoint: null,
      cmd: null,
      env: [],
      user: "",
      workingDir: "",
      stopSignal: "",
    };
    expect(parseConfig(config(), 1, "x").config).toEqual(silent);
    const nulls = { Entrypoint: null, Cmd: null, Env: null, User: null, WorkingDir: null };
    expect(parseConfig(config({ config: nulls }), 1, "x").config).toEqual(silent);
  });

  test("refuses another architecture and another number of layers", () => {
    expect(reasonOf(() => parseConfig(config({ architecture: "arm64" }), 1, "x"))).toBe(
      "IMAGE_PLATFORM_MISSING",
    );
    expect(reasonOf(() => parseConfig(config(), 2, "x"))).toBe("IMAGE_CORRUPT");
  });
});
