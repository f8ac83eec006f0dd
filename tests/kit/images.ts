/**
 * Real images out of Debian packages, made once and kept under LEVERET_CACHE_DIR/test-images:
 *
 *   busybox               one layer; ENTRYPOINT, CMD, ENV, USER and WORKDIR set
 *   debian-python         Debian userland with python3 and every layer trick (images/layers.ts)
 *   debian-python-zstd    the same with zstd layers
 *   arm64only             says it is for another architecture
 *   wrong-diff-id         arrives whole but does not unpack to what its config promises
 *
 * As a program: bun tests/kit/images.ts push HOST:PORT [NAME…]
 */
import { existsSync } from "node:fs";
import { chmod, copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { packRootfs } from "../../agent/images/pack.ts";
import { makeTar, middleLayer, upperLayer } from "./images/layers.ts";
import { runTool } from "./images/run.ts";

/** Raise it when a recipe changes: the cache is keyed by it. */
const RECIPES = "2";

export const TEST_IMAGES = [
  "busybox",
  "debian-python",
  "debian-python-zstd",
  "arm64only",
  "wrong-diff-id",
] as const;
export type TestImage = (typeof TEST_IMAGES)[number];

const cacheDir = (): string =>
  join(
    process.env["LEVERET_CACHE_DIR"] ?? join(homedir(), ".cache/leveret"),
    `test-images/${RECIPES}`,
  );

type Make = (layout: string, scratch: string) => Promise<void>;

const RECIPE: Record<TestImage, Make> = {
  busybox: makeBusybox,
  "debian-python": makeDebianPython,
  // Through a layout: a push to a registry that has the gzip blobs would reuse them.
  "debian-python-zstd": async (layout) => {
    const format = ["--dest-compress-format", "zstd"];
    await skopeoCopy(
      `oci:${await testImage("debian-python")}:latest`,
      `oci:${layout}:latest`,
      format,
    );
  },
  arm64only: async (layout) => rewriteConfig(await testImage("busybox"), layout, armed),
  "wrong-diff-id": async (layout) => rewriteConfig(await testImage("busybox"), layout, promised),
};

/** The OCI layout ("latest") of an image, made when it is not in the cache. */
export async function testImage(image: TestImage): Promise<string> {
  const layout = join(cacheDir(), image);
  if (existsSync(join(layout, "index.json"))) return layout;
  const started = performance.now();
  process.stderr.write(`test image ${image}: making it\n`);
  const scratch = `${layout}.tmp-${process.pid}`;
  await rm(scratch, { recursive: true, force: true });
  await mkdir(scratch, { recursive: true });
  try {
    await RECIPE[image](join(scratch, "layout"), scratch);
    // Another process may have been faster; its work is as good.
    if (!existsSync(layout)) await rename(join(scratch, "layout"), layout);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  process.stderr.write(`test image ${image}: ready after ${seconds} s\n`);
  return layout;
}

/** Pushes to a registry on loopback; returns the reference. */
export async function pushImage(host: string, image: TestImage): Promise<string> {
  const layout = await testImage(image);
  const reference = `${host}/${image}:latest`;
  await skopeoCopy(`oci:${layout}:latest`, `docker://${reference}`, ["--dest-tls-verify=false"]);
  return reference;
}

async function skopeoCopy(from: string, to: string, flags: string[]): Promise<void> {
  await runTool(["skopeo", "copy", "--quiet", "--insecure-policy", ...flags, from, to]);
}

/**
 * Pushes busybox as Docker schema 2 and the arm64 image, and an index over both with a build
 * attestation's entry beside them; returns the index's reference.
 */
export async function pushIndex(host: string): Promise<string> {
  const push = async (image: TestImage, tag: string, format: string): Promise<object> => {
    const to = `${host}/multi:${tag}`;
    const flags = ["--dest-tls-verify=false", "--format", format];
    await skopeoCopy(`oci:${await testImage(image)}:latest`, `docker://${to}`, flags);
    const raw = await runTool([
      "skopeo",
      "inspect",
      "--tls-verify=false",
      "--raw",
      `docker://${to}`,
    ]);
    const digest = `sha256:${new Bun.CryptoHasher("sha256").update(raw).digest("hex")}`;
    const { mediaType } = JSON.parse(raw) as { mediaType: string };
    return { mediaType, digest, size: Buffer.byteLength(raw) };
  };
  const arm64 = await push("arm64only", "arm64", "oci");
  const amd64 = await push("busybox", "amd64", "v2s2");
  const manifests = [
    { ...arm64, platform: { os: "unknown", architecture: "unknown" } },
    { ...arm64, platform: { os: "linux", architecture: "arm64", variant: "v8" } },
    { ...amd64, platform: { os: "linux", architecture: "amd64" } },
  ];
  const mediaType = "application/vnd.oci.image.index.v1+json";
  const put = await fetch(`http://${host}/v2/multi/manifests/latest`, {
    method: "PUT",
    headers: { "content-type": mediaType },
    body: JSON.stringify({ schemaVersion: 2, mediaType, manifests }),
  });
  if (!put.ok) throw new Error(`the registry refused the index: ${await put.text()}`);
  return `${host}/multi:latest`;
}

/** Turns a byte in the middle of the first layer in the registry's own storage. */
export async function corruptLayer(storage: string, layout: string): Promise<string> {
  const { manifest } = await readLayout(layout);
  const digest = manifest.layers[0]?.digest ?? "";
  const hex = digest.replace("sha256:", "");
  const path = join(storage, "docker/registry/v2/blobs/sha256", hex.slice(0, 2), hex, "data");
  const bytes = await readFile(path);
  const middle = bytes.length >> 1;
  bytes[middle] = (bytes[middle] ?? 0) ^ 0xff;
  await writeFile(path, bytes);
  return digest;
}

async function makeBusybox(layout: string, scratch: string): Promise<void> {
  const root = join(scratch, "root");
  for (const name of ["bin", "etc", "home/app", "tmp", "proc", "sys", "dev"])
    await mkdir(join(root, name), { recursive: true });
  await chmod(join(root, "tmp"), 0o1777);
  await copyFile("/bin/busybox", join(root, "bin/busybox"));
  await chmod(join(root, "bin/busybox"), 0o755);
  const applets = (await runTool([join(root, "bin/busybox"), "--list"])).trim().split("\n");
  for (const applet of applets)
    if (applet !== "busybox") await symlink("busybox", join(root, "bin", applet));
  await copyFile("/etc/os-release", join(root, "etc/os-release"));
  await writeFile(
    join(root, "etc/passwd"),
    "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
  );
  await writeFile(join(root, "etc/group"), "root:x:0:\napp:x:1000:\n");
  await packRootfs(root, layout, {
    entrypoint: ["/bin/env", "FROM_ENTRYPOINT=1"],
    cmd: ["/bin/sh", "-c", "echo hello from busybox"],
    env: ["PATH=/bin", "GREETING=hello from the image"],
    user: "app:app",
    workingDir: "/home/app",
    stopSignal: "SIGTERM",
  });
}

async function makeDebianPython(layout: string, scratch: string): Promise<void> {
  const base = join(scratch, "base.tar");
  // The suite and the mirrors are this machine's own: mmdebstrap reads its apt sources.
  const suite = /VERSION_CODENAME=(\S+)/.exec(await readFile("/etc/os-release", "utf8"))?.[1];
  await runTool([
    "mmdebstrap",
    "--quiet",
    "--variant=essential",
    "--include=python3-minimal,python3",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    '--aptopt=Acquire::Languages "none"',
    suite ?? "bookworm",
    base,
  ]);
  const image = `${layout}:latest`;
  await runTool(["umoci", "init", "--layout", layout]);
  await runTool(["umoci", "new", "--image", image]);
  const layers: [string, Uint8Array][] = [
    ["middle", middleLayer()],
    ["upper", upperLayer()],
    ["empty", makeTar([])],
  ];
  const tars = [base];
  for (const [name, bytes] of layers) {
    tars.push(join(scratch, `${name}.tar`));
    await writeFile(join(scratch, `${name}.tar`), bytes);
  }
  for (const tar of tars) await runTool(["umoci", "raw", "add-layer", "--image", image, tar]);
  await runTool([
    "umoci",
    "config",
    "--image",
    image,
    "--config.cmd",
    "python3",
    "--config.env",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "--config.env",
    "LANG=C.UTF-8",
    "--config.workingdir",
    "/root",
    "--architecture",
    "amd64",
    "--os",
    "linux",
  ]);
  await runTool(["umoci", "gc", "--layout", layout]);
}

type Descriptor = { mediaType: string; digest: string; size: number };
type Manifest = { config: Descriptor; layers: Descriptor[] };
type Config = { architecture: string; rootfs: { diff_ids: string[] } };

const blobPath = (layout: string, digest: string): string =>
  join(layout, "blobs/sha256", digest.replace("sha256:", ""));

async function readLayout(layout: string): Promise<{ manifest: Manifest; config: Config }> {
  const read = async (path: string): Promise<unknown> => JSON.parse(await readFile(path, "utf8"));
  const index = (await read(join(layout, "index.json"))) as { manifests: Descriptor[] };
  const manifest = (await read(blobPath(layout, index.manifests[0]?.digest ?? ""))) as Manifest;
  return { manifest, config: (await read(blobPath(layout, manifest.config.digest))) as Config };
}

const armed = (config: Config): Config => ({ ...config, architecture: "arm64" });
const promised = (config: Config): Config => ({
  ...config,
  rootfs: { ...config.rootfs, diff_ids: [`sha256:${"0".repeat(64)}`] },
});

/** A copy of a one-layer layout with another config. */
async function rewriteConfig(
  from: string,
  layout: string,
  change: (config: Config) => Config,
): Promise<void> {
  await runTool(["cp", "-a", from, layout]);
  const { manifest, config } = await readLayout(from);
  const put = async (value: object): Promise<{ digest: string; size: number }> => {
    const bytes = JSON.stringify(value);
    const digest = `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
    await writeFile(blobPath(layout, digest), bytes);
    return { digest, size: Buffer.byteLength(bytes) };
  };
  const configBlob = await put(change(config));
  const manifestBlob = await put({ ...manifest, config: { ...manifest.config, ...configBlob } });
  const annotations = { "org.opencontainers.image.ref.name": "latest" };
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const manifests = [{ mediaType, ...manifestBlob, annotations }];
  await writeFile(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
}

if (import.meta.main) {
  const [verb, host, ...names] = process.argv.slice(2);
  if (verb !== "push" || host === undefined) {
    process.stderr.write("usage: bun tests/kit/images.ts push HOST:PORT [NAME…]\n");
    process.exit(2);
  }
  const wanted = TEST_IMAGES.filter((image) => names.length === 0 || names.includes(image));
  for (const image of wanted) process.stdout.write(`${await pushImage(host, image)}\n`);
}
