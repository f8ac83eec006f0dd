/** Random stacks of up to eight layers against a model of the OCI text and against umoci. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ByteReader } from "../../agent/images/byte-reader.ts";
import { Flattener } from "../../agent/images/flatten.ts";
import { walkTar } from "../../agent/images/tar.ts";
import type { Directory, Inode } from "../../agent/images/tree.ts";
import { writeImage } from "../kit/images/write.ts";
import { runTool } from "../kit/images/run.ts";
import { describeModel, randomStack, tarOf } from "../kit/images/stacks.ts";
import { compareTrees, describeTree } from "../kit/tree.ts";

setDefaultTimeout(300_000);

const STACKS = Number(process.env["LEVERET_STACKS"] ?? 2_500);
const SEED = Number(process.env["LEVERET_STACKS_SEED"] ?? 20_240_601);
/** Each takes umoci about a second. */
const COMPARED_WITH_UMOCI = 12;

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "lev-stacks-"));
  process.stderr.write(`stacks: ${STACKS} from seed ${SEED} (LEVERET_STACKS_SEED)\n`);
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

async function flatten(layers: readonly Uint8Array[]): Promise<Flattener> {
  const flattener = new Flattener();
  for (const tar of layers) {
    flattener.nextLayer();
    for await (const entry of walkTar(new ByteReader(once(tar)))) flattener.add(entry);
  }
  return flattener;
}

function dataOf(inode: Inode, layers: readonly Uint8Array[]): string {
  if (inode.kind === "symlink") return inode.target;
  if (inode.kind !== "file") return "";
  const pieces = inode.segments.map(({ at, length }) =>
    layers[inode.layer]?.subarray(at, at + length),
  );
  return Buffer.concat(pieces.filter((piece) => piece !== undefined)).toString("latin1");
}

function describeFlat(root: Directory, layers: readonly Uint8Array[]): string[] {
  const found: [string, Inode][] = [];
  const walk = (directory: Directory, prefix: string): void => {
    for (const [name, { inode }] of directory.entries) {
      found.push([`${prefix}${name}`, inode]);
      if (inode.kind === "directory") walk(inode, `${prefix}${name}/`);
    }
  };
  walk(root, "");
  const first = new Map<Inode, string>();
  return found
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([path, inode]) => {
      const group = first.get(inode) ?? path;
      first.set(inode, group);
      const { kind, mode, uid, gid, mtime, xattrs } = inode;
      const hash = Bun.hash(dataOf(inode, layers));
      return [path, kind, mode, uid, gid, mtime, xattrs.get("user.x") ?? "", group, hash].join("|");
    });
}

test(`${STACKS} random stacks become what the OCI text says`, async () => {
  let names = 0;
  for (let index = 0; index < STACKS; index += 1) {
    const seed = SEED + index;
    const stack = randomStack(seed);
    const layers = stack.layers.map(tarOf);
    const ours = describeFlat((await flatten(layers)).tree.root, layers);
    const expected = describeModel(stack.model);
    names += expected.length;
    if (ours.join("\n") !== expected.join("\n"))
      expect({
        seed,
        layers: stack.layers.map((l) => l.map((i) => `${i.kind} ${i.name} ${i.linkName ?? ""}`)),
        ours,
      }).toEqual({
        seed,
        layers: [],
        ours: expected,
      });
  }
  expect(names).toBeGreaterThan(STACKS * 3);
});

/** Times of directories that no entry describes are umoci's own moment. */
const withoutDirectoryTimes = (lines: string[]): string[] =>
  lines.map((line) => {
    const fields = line.split("\t");
    if (fields[1] === "40000") fields[4] = "";
    return fields.join("\t");
  });

test(`${COMPARED_WITH_UMOCI} of them, through squashfs, are what umoci unpacks`, async () => {
  let compared = 0;
  for (let index = 0; index < COMPARED_WITH_UMOCI; index += 1) {
    const stack = randomStack(SEED + index * 7);
    const at = join(scratch, String(index));
    const image = `${at}-oci:latest`;
    const paths: string[] = [];
    await runTool(["umoci", "init", "--layout", `${at}-oci`]);
    await runTool(["umoci", "new", "--image", image]);
    for (const [number, items] of stack.layers.entries()) {
      const path = `${at}-${number}.tar`;
      const root = { name: ".", kind: "directory", mode: 0o755, mtime: 7, data: "" } as const;
      await Bun.write(path, tarOf([root, ...items]));
      await runTool(["umoci", "raw", "add-layer", "--image", image, path]);
      paths.push(path);
    }
    await runTool(["umoci", "unpack", "--image", image, `${at}-bundle`]);
    await writeImage(`${at}.squashfs`, paths);
    await runTool(["unsquashfs", "-no-progress", "-quiet", "-d", `${at}-ours`, `${at}.squashfs`]);
    const expected = withoutDirectoryTimes(describeTree(join(`${at}-bundle`, "rootfs")));
    const ours = withoutDirectoryTimes(describeTree(`${at}-ours`));
    compared += expected.length;
    expect({ seed: SEED + index * 7, differs: compareTrees(expected, ours) }).toEqual({
      seed: SEED + index * 7,
      differs: [],
    });
    await rm(`${at}-bundle`, { recursive: true, force: true });
    await rm(`${at}-ours`, { recursive: true, force: true });
  }
  expect(compared).toBeGreaterThan(COMPARED_WITH_UMOCI);
});
