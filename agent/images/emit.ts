/** Streams the files of a flattened tree out of their layers into a squashfs. */
import { open } from "node:fs/promises";
import { abortReason } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { ByteReader } from "./byte-reader.ts";
import { readLayer } from "./layer.ts";
import { finishSquashfs, startSquashfs } from "./squashfs.ts";
import type { DataWriter, FileLayout } from "./squashfs-data.ts";
import type { Directory, Leaf } from "./tree.ts";

type FileLeaf = Extract<Leaf, { kind: "file" }>;

export type LayerSource = { path: string; digest: string };

export type EmitOptions = {
  signal: AbortSignal;
  /** Uncompressed bytes written so far, and of how many. */
  onBytes: (done: number, total: number) => void;
};

/**
 * Writes and syncs the image at `path`, which must not exist; returns its size in bytes. Each
 * layer that still has files in the tree is decompressed once more, in order: the tree's files
 * are taken in the order in which they lie there. Leaves a partial file behind when it throws.
 */
export async function emitSquashfs(
  path: string,
  root: Directory,
  layers: readonly LayerSource[],
  options: EmitOptions,
): Promise<number> {
  const file = await open(path, "wx", 0o600);
  try {
    const data = startSquashfs(file);
    const layouts = new Map<Leaf, FileLayout>();
    const byLayer = filesByLayer(root, layers.length);
    const total = byLayer.flat().reduce((sum, { size }) => sum + size, 0);
    let done = 0;
    for (const [index, files] of byLayer.entries()) {
      const layer = layers[index];
      if (layer === undefined || files.length === 0) continue;
      const reader = new ByteReader(readLayer(layer.path, layer.digest));
      try {
        for (const leaf of files) {
          if (options.signal.aborted) throw abortReason(options.signal);
          layouts.set(leaf, await copyFile(reader, leaf, data, options.signal));
          done += leaf.size;
          options.onBytes(done, total);
        }
      } finally {
        await reader.close();
      }
    }
    await finishSquashfs(file, data, root, layouts);
    await file.sync();
    return (await file.stat()).size;
  } finally {
    await file.close();
  }
}

function filesByLayer(root: Directory, layers: number): FileLeaf[][] {
  const found: Set<FileLeaf>[] = Array.from({ length: layers }, () => new Set());
  const todo: Directory[] = [root];
  for (let here = todo.pop(); here !== undefined; here = todo.pop()) {
    for (const { inode } of here.entries.values()) {
      if (inode.kind === "directory") todo.push(inode);
      else if (inode.kind === "file") found[inode.layer]?.add(inode);
    }
  }
  const at = (leaf: FileLeaf): number => leaf.segments[0]?.at ?? -1;
  return found.map((files) => [...files].sort((a, b) => at(a) - at(b)));
}

async function copyFile(
  reader: ByteReader,
  leaf: FileLeaf,
  data: DataWriter,
  signal: AbortSignal,
): Promise<FileLayout> {
  const shrunk = new LvError("IMAGE_CORRUPT", "A layer changed while it was read");
  let position = 0;
  data.beginFile();
  for (const { offset, length, at } of leaf.segments) {
    await data.zeros(offset - position);
    if (!(await reader.skip(at - reader.position))) throw shrunk;
    for (let left = length; left > 0;) {
      if (signal.aborted) throw abortReason(signal);
      const piece = await reader.some(left);
      if (piece === null) throw shrunk;
      await data.write(piece);
      left -= piece.length;
    }
    position = offset + length;
  }
  await data.zeros(leaf.size - position);
  return await data.endFile();
}
