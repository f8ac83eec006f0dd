/**
 * `bench image`: from a reference to a squashfs on this machine's disk, ours against
 * skopeo copy + umoci unpack + mksquashfs, interleaved, from a registry on loopback.
 */
import { chmodSync, mkdirSync, mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { runTool } from "../kit/images/run.ts";
import { startRegistry } from "../kit/registry.ts";
import { benchImage, BENCH_IMAGES, type BenchImage } from "./image-recipes.ts";
import { FirstOutput } from "./image-first.ts";
import { OurStore, pullPeer, type Sample } from "./image-sides.ts";
import { slowLink } from "./image-slow.ts";
import { type Figure, makeFigure } from "./report.ts";

export const IMAGE_USAGE =
  "image [--images 5mb,python,1gib] [--rounds N] [--parts wall,slow,sharing]";

const LINK_BYTES_PER_SECOND = 50_000_000;

type Say = (line: string) => void;
const PARTS = ["wall", "slow", "sharing"] as const;
type Part = (typeof PARTS)[number];

export type ImageOptions = { images: BenchImage[]; rounds: number; parts: Part[] };

export function parseImageOptions(args: string[]): ImageOptions {
  const { values } = parseArgs({
    args,
    options: {
      images: { type: "string", default: "5mb,python,1gib" },
      rounds: { type: "string", default: "3" },
      parts: { type: "string", default: PARTS.join(",") },
    },
  });
  const images = values.images.split(",").map((name) => {
    const known = BENCH_IMAGES.find((image) => image === name);
    if (known === undefined) throw new Error(`Unknown image "${name}": ${BENCH_IMAGES.join(", ")}`);
    return known;
  });
  const parts = values.parts.split(",").map((name) => {
    const known = PARTS.find((part) => part === name);
    if (known === undefined) throw new Error(`Unknown part "${name}": ${PARTS.join(", ")}`);
    return known;
  });
  return { images, rounds: Number(values.rounds), parts };
}

export async function benchImages(options: ImageOptions, say: Say): Promise<Figure[]> {
  const scratch = mkdtempSync(join(tmpdir(), "lev-bench-"));
  // As root a control plane runs its PostgreSQL as another user, who has to get in.
  chmodSync(scratch, 0o755);
  const registry = await startRegistry();
  try {
    const needed = new Set<BenchImage>([...options.images, "python", "python-next"]);
    for (const image of needed) {
      const flags = ["--quiet", "--insecure-policy", "--dest-tls-verify=false"];
      const layout = await benchImage(image, say);
      const to = `docker://${registry.host}/${image}:latest`;
      await runTool(["skopeo", "copy", ...flags, `oci:${layout}:latest`, to]);
    }
    const figures: Figure[] = [];
    for (const image of options.parts.includes("wall") ? options.images : [])
      figures.push(
        ...(await compare(`${registry.host}/${image}:latest`, image, options, scratch, say)),
      );
    if (options.parts.includes("slow") && options.images.includes("1gib"))
      figures.push(
        ...(await overSlowLink(registry.host, join(scratch, "slow"), options.rounds, say)),
      );
    const log = async (): Promise<string> => await Bun.file(registry.logPath).text();
    if (options.parts.includes("sharing"))
      figures.push(...(await sharing(registry.host, join(scratch, "sharing"), log)));
    return figures;
  } finally {
    await registry.close();
    await rm(scratch, { recursive: true, force: true });
  }
}

async function compare(
  reference: string,
  image: BenchImage,
  { rounds }: ImageOptions,
  scratch: string,
  say: Say,
): Promise<Figure[]> {
  const ours: Sample[] = [];
  const peer: Sample[] = [];
  for (let round = 1; round <= rounds; round += 1) {
    const dir = join(scratch, `${image}-${round}`);
    {
      await using store = new OurStore(join(dir, "ours"));
      await store.ready();
      ours.push(await store.pull(reference));
    }
    await rm(dir, { recursive: true, force: true });
    // What is still to be written belongs to the side that wrote it.
    await runTool(["sync"]);
    mkdirSync(dir, { recursive: true });
    peer.push(await pullPeer(reference, dir));
    await runTool(["sync"]);
    const [a, b] = [ours.at(-1), peer.at(-1)];
    say(
      `${image} round ${round}: ours ${a?.seconds.toFixed(2)} s, peer ${b?.seconds.toFixed(2)} s`,
    );
  }
  const of = (figure: string, unit: string, pick: (sample: Sample) => number): Figure =>
    makeFigure({ bench: "image", figure, unit }, ours.map(pick), peer.map(pick));
  const figures = [of(`wall_${image}`, "s", ({ seconds }) => seconds)];
  figures.push(of(`written_${image}`, "MiB", ({ writtenMib }) => writtenMib));
  if (image === "1gib") {
    const peaks = ours.map(({ peakMib }) => peakMib);
    figures.push(makeFigure({ bench: "image", figure: "peak_mib", unit: "MiB" }, peaks, null));
  }
  return figures;
}

/**
 * The largest image over a link of 50 MB/s: how long until it is whole, against the time its
 * bytes alone need on that link; and until a machine of it has said something, against the
 * time until it is whole. A machine starts then (docs/start-before-pull.md).
 */
async function overSlowLink(
  host: string,
  dir: string,
  rounds: number,
  say: Say,
): Promise<Figure[]> {
  const devKernel = process.env["LEVERET_DEV_KERNEL"] ?? "";
  if (devKernel === "") say("first_output_1gib left out: LEVERET_DEV_KERNEL is not set");
  const whole: number[] = [];
  const first: number[] = [];
  await using stack = new AsyncDisposableStack();
  const link = stack.use(slowLink(host, LINK_BYTES_PER_SECOND));
  const output = devKernel === "" ? null : stack.use(await FirstOutput.start(dir, devKernel));
  const reference = `${link.host}/1gib:latest`;
  for (let round = 1; round <= rounds; round += 1) {
    {
      await using store = new OurStore(join(dir, String(round)));
      await store.ready();
      whole.push((await store.pull(reference)).seconds);
    }
    await rm(join(dir, String(round)), { recursive: true, force: true });
    await runTool(["sync"]);
    say(`1gib over 50 MB/s round ${round}: whole after ${whole.at(-1)?.toFixed(2)} s`);
    if (output === null) continue;
    first.push(await output.run(reference, round));
    await runTool(["sync"]);
    say(`1gib over 50 MB/s round ${round}: first output after ${first.at(-1)?.toFixed(2)} s`);
  }
  const bytes = await layerBytes(host);
  const figure = (name: string, ours: number[], peer: number[]): Figure =>
    makeFigure({ bench: "image", figure: name, unit: "s" }, ours, peer);
  const figures = [figure("whole_1gib_50mbs", whole, [bytes / LINK_BYTES_PER_SECOND])];
  if (first.length > 0) figures.push(figure("first_output_1gib", first, whole));
  return figures;
}

async function layerBytes(host: string): Promise<number> {
  const tag = await fetch(`http://${host}/v2/1gib/manifests/latest`, {
    headers: { accept: "application/vnd.oci.image.manifest.v1+json" },
  });
  const { layers } = (await tag.json()) as { layers: { size: number }[] };
  return layers.reduce((sum, { size }) => sum + size, 0);
}

/** A second tag fetches only what is new; ten machines at once are one build. */
async function sharing(host: string, dir: string, log: () => Promise<string>): Promise<Figure[]> {
  await using store = new OurStore(dir);
  await store.ready();
  const blobsOf = async (pull: () => Promise<unknown>): Promise<number> => {
    const before = (await log()).length;
    await pull();
    return [...(await log()).slice(before).matchAll(/"GET \/v2\/[\w-]+\/blobs\//g)].length;
  };
  const ten = await blobsOf(async () => await store.pull(`${host}/python:latest`, 10));
  const next = await blobsOf(async () => await store.pull(`${host}/python-next:latest`));
  const count = (figure: string, value: number): Figure =>
    makeFigure({ bench: "image", figure, unit: "blobs" }, [value], null);
  return [count("blobs_ten_machines", ten), count("blobs_second_tag", next)];
}
