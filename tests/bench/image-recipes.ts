/**
 * The images of `bench image`, out of Debian packages of this machine's own release: each layer
 * is the files of some packages. Made once and kept under LEVERET_CACHE_DIR/bench-images.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { runTool } from "../kit/images/run.ts";

/** Raise it when a recipe changes: the cache is keyed by it. */
const RECIPES = "1";

const BASE = ["libc6", "busybox-static", "base-files"];
const SHELL = [
  "bash",
  "coreutils",
  "libtinfo6",
  "libselinux1",
  "libpcre2-8-0",
  "libacl1",
  "libattr1",
  "libgmp10",
];
const LIBRARIES = [
  "zlib1g",
  "libssl3",
  "libffi8",
  "libexpat1",
  "libsqlite3-0",
  "libbz2-1.0",
  "liblzma5",
  "libreadline8",
  "libncursesw6",
  "libuuid1",
];
const PYTHON = ["libpython3.11-minimal", "python3.11-minimal", "python3-minimal"];
const PYTHON_LIBRARY = ["libpython3.11-stdlib", "python3.11", "python3"];

const LAYERS = {
  "5mb": [BASE],
  python: [BASE, SHELL, LIBRARIES, PYTHON, PYTHON_LIBRARY],
  "1gib": [
    BASE,
    [...SHELL, ...LIBRARIES],
    [...PYTHON, ...PYTHON_LIBRARY, "libwebkit2gtk-4.0-37"],
    ["libllvm14"],
    ["openjdk-17-jre-headless"],
    ["golang-1.19-src"],
    ["libboost1.74-dev"],
    ["gcc-12", "cpp-12", "g++-12"],
    ["libreoffice-core"],
    ["libnode108", "libstd-rust-dev"],
    ["perl-modules-5.36", "libicu72"],
    ["postgresql-15", "mariadb-server-core"],
  ],
  // Shares all but its last layer with "python": what a second tag costs.
  "python-next": [BASE, SHELL, LIBRARIES, PYTHON, [...PYTHON_LIBRARY, "python3-pip"]],
} as const;

export type BenchImage = keyof typeof LAYERS;
export const BENCH_IMAGES = Object.keys(LAYERS) as BenchImage[];

const cacheDir = (): string =>
  join(
    process.env["LEVERET_CACHE_DIR"] ?? join(homedir(), ".cache/leveret"),
    `bench-images/${RECIPES}`,
  );

/** The OCI layout ("latest") of an image, made when it is not in the cache. */
export async function benchImage(image: BenchImage, say: (line: string) => void): Promise<string> {
  const layout = join(cacheDir(), image);
  if (existsSync(join(layout, "index.json"))) return layout;
  say(`making image ${image} of Debian packages`);
  const scratch = `${layout}.tmp-${process.pid}`;
  await mkdir(scratch, { recursive: true });
  try {
    await make(image, join(scratch, "layout"), scratch);
    if (!existsSync(layout)) await rename(join(scratch, "layout"), layout);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
  return layout;
}

async function make(image: BenchImage, layout: string, scratch: string): Promise<void> {
  const tag = `${layout}:latest`;
  await runTool(["umoci", "init", "--layout", layout]);
  await runTool(["umoci", "new", "--image", tag]);
  for (const [number, packages] of LAYERS[image].entries()) {
    const tar = await layerTar(packages, join(scratch, String(number)));
    await runTool(["umoci", "raw", "add-layer", "--image", tag, tar]);
    await rm(join(scratch, String(number)), { recursive: true });
  }
  const config = ["--config.cmd", "/bin/busybox", "--architecture", "amd64", "--os", "linux"];
  await runTool(["umoci", "config", "--image", tag, ...config]);
  await runTool(["umoci", "gc", "--layout", layout]);
}

/** The files of the packages as one tar, the same bytes for the same packages. */
async function layerTar(packages: readonly string[], dir: string): Promise<string> {
  const debs = join(dir, "debs");
  const root = join(dir, "root");
  await mkdir(debs, { recursive: true });
  // apt gives its download to a user of its own, who may not write here; root may.
  await runTool(["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", ...packages], debs);
  for (const name of (await readdir(debs)).toSorted())
    await runTool(["dpkg-deb", "-x", join(debs, name), root]);
  const tar = join(dir, "layer.tar");
  const stable = ["--sort=name", "--numeric-owner", "--mtime=@1700000000", "--clamp-mtime"];
  await runTool(["tar", ...stable, "-C", root, "-cf", tar, "."]);
  return tar;
}
