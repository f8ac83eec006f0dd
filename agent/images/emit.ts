/**
 * From layers to a squashfs in one pass: while a layer is decompressed for its names, its files'
 * bytes go straight into blocks, so that nothing is decompressed or read twice.
 *
 * Bytes of a file that a later layer removes are in the image by then and stay as dead blocks,
 * which no inode names. Past a bound they are not worth their room: then the image is written
 * again by `emitTree`, which reads only what the tree still has. Both ways depend on nothing but
 * the layers, so the same layers give the same bytes everywhere.
 */
import { open, rm, type FileHandle } from "node:fs/promises";
import { abortReason } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { ByteReader } from "./byte-reader.ts";
import type { Flattener } from "./flatten.ts";
import { readLayer } from "./layer.ts";
import { finishSquashfs, startSquashfs } from "./squashfs.ts";
import type { DataWriter, FileLayout } from "./squashfs-data.ts";
import { walkTar } from "./tar.ts";
import type { Directory, FileLeaf, Leaf } from "./tree.ts";

export type LayerSource = { path: string; digest: string };

/** Dead bytes that are never worth a second pass. */
const DEAD_FLOOR_BYTES = 16 << 20;
/** Dead bytes over live ones that are. */
const DEAD_RATIO = 0.25;

export class LayeredWriter {
  readonly #path: string;
  readonly #flattener: Flattener;
  readonly #signal: AbortSignal;
  readonly #layers: LayerSource[] = [];
  /** Weak: a million entries for the same name must not be kept. */
  readonly #layouts = new WeakMap<Leaf, FileLayout>();
  #storedBytes = 0;
  #file: FileHandle | null = null;
  #data: DataWriter | null = null;

  /** Writes at `path`, which must not exist. */
  constructor(path: string, flattener: Flattener, signal: AbortSignal) {
    this.#path = path;
    this.#flattener = flattener;
    this.#signal = signal;
  }

  /**
   * Lays the next layer over the ones before; returns the sha256 of its uncompressed bytes.
   * Throws as readLayer, walkTar and Flattener.add, and the signal's reason.
   */
  async add(layer: LayerSource, onStored: (bytes: number) => void = () => {}): Promise<string> {
    const data = await this.#open();
    this.#layers.push(layer);
    this.#flattener.nextLayer();
    const hasher = new Bun.CryptoHasher("sha256");
    const reader = new ByteReader(readLayer(layer.path, layer.digest, onStored), (chunk) => {
      this.#signal.throwIfAborted();
      hasher.update(chunk);
    });
    try {
      for await (const entry of walkTar(reader)) {
        const leaf = this.#flattener.add(entry);
        if (leaf === null) continue;
        const layout = await copyFile(reader, leaf, data, this.#signal);
        this.#layouts.set(leaf, layout);
        this.#storedBytes += layout.size - layout.holeBytes;
      }
      await reader.drain();
      return `sha256:${hasher.digest("hex")}`;
    } finally {
      await reader.close();
    }
  }

  /** Finishes and syncs the image; its size in bytes. */
  async finish(): Promise<number> {
    const data = await this.#open();
    let liveBytes = 0;
    for (const leaf of liveFiles(this.#flattener.tree.root)) {
      const layout = this.#layouts.get(leaf);
      if (layout !== undefined) liveBytes += layout.size - layout.holeBytes;
    }
    const dead = this.#storedBytes - liveBytes;
    if (dead > DEAD_FLOOR_BYTES && dead > liveBytes * DEAD_RATIO) {
      await this.close();
      await rm(this.#path);
      return await emitTree(this.#path, this.#flattener.tree.root, this.#layers, this.#signal);
    }
    const file = this.#file;
    if (file === null) throw new LvError("INTERNAL", "The image is closed already");
    await finishSquashfs(file, data, this.#flattener.tree.root, this.#layouts);
    await file.sync();
    return (await file.stat()).size;
  }

  /** Safe twice; a half file stays for the caller to remove. */
  async close(): Promise<void> {
    const file = this.#file;
    this.#file = null;
    await this.#data?.settle();
    await file?.close();
  }

  async #open(): Promise<DataWriter> {
    this.#file ??= await open(this.#path, "wx", 0o600);
    this.#data ??= startSquashfs(this.#file);
    return this.#data;
  }
}

/**
 * Writes the image of a tree from its layers, each decompressed once more, in order: only files
 * that the tree has. Returns its size in bytes. Leaves a partial file behind when it throws.
 */
export async function emitTree(
  path: string,
  root: Directory,
  layers: readonly LayerSource[],
  signal: AbortSignal,
): Promise<number> {
  const file = await open(path, "wx", 0o600);
  const data = startSquashfs(file);
  try {
    const layouts = new Map<Leaf, FileLayout>();
    for (const [index, files] of filesByLayer(root, layers.length).entries()) {
      const layer = layers[index];
      if (layer === undefined || files.length === 0) continue;
      const reader = new ByteReader(readLayer(layer.path, layer.digest));
      try {
        for (const leaf of files) layouts.set(leaf, await copyFile(reader, leaf, data, signal));
      } finally {
        await reader.close();
      }
    }
    await finishSquashfs(file, data, root, layouts);
    await file.sync();
    return (await file.stat()).size;
  } finally {
    await data.settle();
    await file.close();
  }
}

function liveFiles(root: Directory): Set<FileLeaf> {
  const found = new Set<FileLeaf>();
  const todo: Directory[] = [root];
  for (let here = todo.pop(); here !== undefined; here = todo.pop())
    for (const { inode } of here.entries.values())
      if (inode.kind === "directory") todo.push(inode);
      else if (inode.kind === "file") found.add(inode);
  return found;
}

function filesByLayer(root: Directory, layers: number): FileLeaf[][] {
  const found: FileLeaf[][] = Array.from({ length: layers }, () => []);
  for (const leaf of liveFiles(root)) found[leaf.layer]?.push(leaf);
  const at = (leaf: FileLeaf): number => leaf.segments[0]?.at ?? -1;
  return found.map((files) => files.sort((a, b) => at(a) - at(b)));
}

async function copyFile(
  reader: ByteReader,
  leaf: FileLeaf,
  data: DataWriter,
  signal: AbortSignal,
): Promise<FileLayout> {
  let position = 0;
  data.beginFile();
  for (const { offset, length, at } of leaf.segments) {
    await zeros(data, offset - position, signal);
    if (!(await reader.skip(at - reader.position))) throw shrunk();
    for (let left = length; left > 0;) {
      if (signal.aborted) throw abortReason(signal);
      const piece = await reader.some(left);
      if (piece === null) throw shrunk();
      await data.write(piece);
      left -= piece.length;
    }
    position = offset + length;
  }
  await zeros(data, leaf.size - position, signal);
  return await data.endFile();
}

/** In steps: a sparse file may be a long nothing. */
async function zeros(data: DataWriter, length: number, signal: AbortSignal): Promise<void> {
  for (let left = length; left > 0;) {
    if (signal.aborted) throw abortReason(signal);
    const step = Math.min(left, 64 << 20);
    await data.zeros(step);
    left -= step;
  }
}

function shrunk(): LvError {
  return new LvError("IMAGE_CORRUPT", "the layer ends in the middle of a file");
}
