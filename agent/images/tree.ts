/**
 * The file tree of an image while its layers are laid over each other: names and attributes
 * only, a file's bytes stay in its layer. Names are byte strings. A hard link is a second name
 * of the same inode, so replacing or removing one name never touches the other.
 *
 * Directories live in exactly one place and carry two layer numbers: `touched`, the last layer
 * that put anything at or below them, and `described`, the last layer with an entry for them.
 * With these a whiteout can act on lower layers only, whatever its place in the archive.
 */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { showName, TarError } from "./tar-header.ts";
import type { Segment } from "./tar-sparse.ts";

export type Attributes = {
  mode: number;
  uid: number;
  gid: number;
  mtime: number;
  xattrs: Map<string, string>;
};

export type Leaf = Attributes &
  (
    | { kind: "file"; layer: number; size: number; segments: Segment[] }
    | { kind: "symlink"; target: string }
    | { kind: "char" | "block"; major: number; minor: number }
    | { kind: "fifo" }
  );

export type FileLeaf = Extract<Leaf, { kind: "file" }>;

export type Directory = Attributes & {
  kind: "directory";
  entries: Map<string, Entry>;
  touched: number;
  described: number;
  /** The last layer that hid everything older in here; doing it again would only cost time. */
  cleared: number;
};

export type Inode = Leaf | Directory;

/** One name; `layer` = the layer that put it here. */
export type Entry = { inode: Inode; layer: number };

/** A directory that no entry describes: 0755 root, as every unpacker makes it. */
export function impliedDirectory(layer: number): Directory {
  return {
    kind: "directory",
    ...impliedAttributes(),
    entries: new Map(),
    touched: layer,
    described: layer,
    cleared: layer,
  };
}

function impliedAttributes(): Attributes {
  return { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: new Map() };
}

/** Linux's own limit (path_resolution(7)). */
const SYMLINK_FOLLOWS = 40;

/**
 * A path's components, cleaned without looking at the tree, as Docker does: leading slashes and
 * "." go, "a/../b" is "b". Throws IMAGE_CORRUPT for what leaves the root or cannot be a name.
 */
export function splitPath(path: string): string[] {
  const parts: string[] = [];
  if (path.length > LIMITS.imagePathBytes)
    throw new TarError(`a path of ${path.length} bytes is over the limit`);
  if (path.includes("\0")) throw new TarError(`the path ${showName(path)} holds a NUL byte`);
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part.length > LIMITS.imageNameBytes)
      throw new TarError(`a name of ${part.length} bytes is over the limit: ${showName(part)}`);
    if (part !== "..") parts.push(part);
    else if (parts.pop() === undefined)
      throw new TarError(`the path ${showName(path)} leaves the image's root`);
  }
  if (parts.length > LIMITS.imagePathDepth)
    throw new TarError(`a path is ${parts.length} directories deep: ${showName(path)}`);
  return parts;
}

export class Tree {
  readonly root: Directory = impliedDirectory(-1);

  /**
   * The directory at `parts`; symbolic links on the way are followed inside the root. With a
   * layer, what is missing is made and what is in the way is replaced, and all directories on
   * the way count as touched; without one the answer is null instead.
   */
  directory(parts: readonly string[], layer: number | null): Directory | null {
    const todo = [...parts].reverse();
    const way: Directory[] = [this.root];
    let follows = 0;
    for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
      const here = way.at(-1) ?? this.root;
      if (layer !== null) here.touched = layer;
      if (part === "..") {
        if (way.length > 1) way.pop();
        continue;
      }
      const found = here.entries.get(part)?.inode;
      if (found?.kind === "directory") {
        way.push(found);
      } else if (found?.kind === "symlink") {
        follows += 1;
        if (follows > SYMLINK_FOLLOWS)
          throw new TarError(`symbolic links on the way to ${showName(parts.join("/"))} go round`);
        if (found.target.startsWith("/")) way.length = 1;
        todo.push(...linkParts(found.target).reverse());
      } else {
        if (layer === null) return null;
        const made = impliedDirectory(layer);
        here.entries.set(part, { inode: made, layer });
        way.push(made);
      }
      if (way.length > LIMITS.imagePathDepth)
        throw new TarError(`${showName(parts.join("/"))} is too deep`);
    }
    const last = way.at(-1) ?? this.root;
    if (layer !== null) last.touched = layer;
    return last;
  }

  /** Follows the parents of the path, never its last name. */
  lookup(parts: readonly string[]): Entry | null {
    const name = parts.at(-1);
    if (name === undefined) return { inode: this.root, layer: this.root.described };
    return this.directory(parts.slice(0, -1), null)?.entries.get(name) ?? null;
  }

  /** Puts an inode at a path; a directory over a directory keeps the children. */
  put(parts: readonly string[], inode: Inode, layer: number): void {
    const name = parts.at(-1);
    if (name === undefined) {
      if (inode.kind !== "directory") throw new TarError("the image's root is not a directory");
      describe(this.root, inode, layer);
      return;
    }
    const parent = this.directory(parts.slice(0, -1), layer);
    if (parent === null) throw new LvError("INTERNAL", "a directory was not made");
    const old = parent.entries.get(name);
    if (inode.kind === "directory" && old?.inode.kind === "directory") {
      describe(old.inode, inode, layer);
      old.layer = layer;
      return;
    }
    parent.entries.set(name, { inode, layer });
  }

  /** A whiteout: hides what lower layers have at the path, and only that. */
  hide(parts: readonly string[], layer: number): void {
    const name = parts.at(-1);
    const parent = this.directory(parts.slice(0, -1), null);
    if (name !== undefined && parent !== null) hideEntry(parent, name, layer);
  }

  /** An opaque mark: hides what lower layers have inside the directory at the path. */
  hideChildren(parts: readonly string[], layer: number): void {
    const found = this.lookup(parts);
    if (found === null) return;
    if (found.inode.kind === "directory") {
      hideLower(found.inode, layer);
      return;
    }
    // The layer has a directory here: what lies below must not be written through, and a
    // link's target is somebody else's.
    if (found.layer < layer) this.put(parts, impliedDirectory(layer), layer);
  }
}

function describe(directory: Directory, from: Attributes, layer: number): void {
  const { mode, uid, gid, mtime, xattrs } = from;
  Object.assign(directory, { mode, uid, gid, mtime, xattrs, touched: layer, described: layer });
}

function hideEntry(parent: Directory, name: string, layer: number): void {
  const entry = parent.entries.get(name);
  if (entry === undefined) return;
  const { inode } = entry;
  if (inode.kind !== "directory") {
    if (entry.layer < layer) parent.entries.delete(name);
    return;
  }
  if (inode.touched < layer) {
    parent.entries.delete(name);
    return;
  }
  // This layer has put something below already: only what is older goes, attributes too.
  hideLower(inode, layer);
  if (inode.described < layer) Object.assign(inode, impliedAttributes(), { described: layer });
  entry.layer = layer;
}

function hideLower(directory: Directory, layer: number): void {
  if (directory.cleared === layer) return;
  directory.cleared = layer;
  for (const name of directory.entries.keys()) hideEntry(directory, name, layer);
}

/** Of a link's target; ".." stays, it is relative to where the link leads. */
function linkParts(target: string): string[] {
  const parts = target.split("/").filter((part) => part !== "" && part !== ".");
  if (parts.length > LIMITS.imagePathDepth || parts.some((p) => p.length > LIMITS.imageNameBytes))
    throw new TarError(`the symbolic link to ${showName(target)} cannot be followed`);
  return parts;
}
