/**
 * Lays one layer over the tree, entry by entry in the archive's order (OCI image-spec,
 * layer.md). Bottom to top on purpose: going from the top down breaks hard links whose target
 * is replaced above and opaque marks next to their siblings.
 */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import type { TarEntry } from "./tar.ts";
import { showName, TarError } from "./tar-header.ts";
import {
  impliedDirectory,
  splitPath,
  Tree,
  type Attributes,
  type FileLeaf,
  type Leaf,
} from "./tree.ts";

const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";
/** eStargz marks at the root; they are about the blob, not about the image. */
const LANDMARKS = [".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"];
/** What squashfs can store (its xattr prefixes); POSIX ACLs are not among them. */
const XATTR_PREFIXES = ["user.", "trusted.", "security."];

export class Flattener {
  readonly tree = new Tree();
  #layer = -1;
  #entries = 0;
  #bytes = 0;
  #metadataBytes = 0;
  /** Xattrs that squashfs cannot hold, by name, for the log. */
  readonly droppedXattrs = new Map<string, number>();

  /** Entries that follow belong to the next layer up; gives its number from 0. */
  nextLayer(): number {
    this.#layer += 1;
    return this.#layer;
  }

  /**
   * Gives the inode of a file whose bytes the image needs as things stand; null for everything
   * else. Throws IMAGE_CORRUPT or IMAGE_TOO_LARGE.
   */
  add(entry: TarEntry): FileLeaf | null {
    this.#count(entry);
    const layer = this.#layer;
    const parts = splitPath(entry.name);
    const name = parts.at(-1);
    if (name !== undefined && name.startsWith(WHITEOUT)) {
      this.#whiteout(parts, name, layer);
      return null;
    }
    if (parts.length === 1 && name !== undefined && LANDMARKS.includes(name)) return null;
    switch (entry.kind) {
      case "hardlink":
        this.#link(entry, parts, layer);
        return null;
      case "directory":
        this.tree.put(parts, { ...impliedDirectory(layer), ...this.#attributes(entry) }, layer);
        return null;
      case "file":
      case "symlink":
      case "char":
      case "block":
      case "fifo": {
        const leaf = this.#leaf(entry, layer);
        this.tree.put(parts, leaf, layer);
        return leaf.kind === "file" ? leaf : null;
      }
      default: {
        const rest: never = entry.kind;
        return rest;
      }
    }
  }

  #count(entry: TarEntry): void {
    this.#entries += 1;
    this.#bytes += entry.size;
    this.#metadataBytes += metadataBytes(entry);
    if (this.#metadataBytes > LIMITS.imageMetadataBytes)
      throw new LvError(
        "IMAGE_TOO_LARGE",
        `The image's names, xattrs and sparse maps take more than ${LIMITS.imageMetadataBytes} bytes`,
      );
    if (this.#entries > LIMITS.imageEntries)
      throw new LvError(
        "IMAGE_TOO_LARGE",
        `The image has more than ${LIMITS.imageEntries} entries`,
      );
    if (this.#bytes > LIMITS.imageUnpackedBytes)
      throw new LvError(
        "IMAGE_TOO_LARGE",
        `The image unpacks to more than ${LIMITS.imageUnpackedBytes} bytes`,
      );
  }

  #whiteout(parts: string[], name: string, layer: number): void {
    const parent = parts.slice(0, -1);
    if (name === OPAQUE) {
      this.tree.hideChildren(parent, layer);
      return;
    }
    const hidden = name.slice(WHITEOUT.length);
    // Other ".wh..wh." names are AUFS's own bookkeeping.
    if (hidden.startsWith(WHITEOUT)) return;
    if (hidden === "" || hidden === "." || hidden === "..")
      throw new TarError(`the whiteout ${showName(parts.join("/"))} names nothing`);
    this.tree.hide([...parent, hidden], layer);
  }

  #link(entry: TarEntry, parts: string[], layer: number): void {
    const target = this.tree.lookup(splitPath(entry.linkName));
    if (target === null || target.inode.kind === "directory")
      throw new TarError(
        `the hard link ${showName(entry.name)} leads to ${showName(entry.linkName)}, which is ${target === null ? "not there" : "a directory"}`,
      );
    // Attributes are the target's: archives do not fill them in for links.
    this.tree.put(parts, target.inode, layer);
  }

  #leaf(entry: TarEntry, layer: number): Leaf {
    const attributes = this.#attributes(entry);
    switch (entry.kind) {
      case "file":
        return { ...attributes, kind: "file", layer, size: entry.size, segments: entry.segments };
      case "symlink":
        return { ...attributes, kind: "symlink", mode: 0o777, target: linkTarget(entry) };
      case "char":
      case "block":
        return { ...attributes, kind: entry.kind, ...deviceNumbers(entry) };
      case "fifo":
      case "hardlink":
      case "directory":
        return { ...attributes, kind: "fifo" };
      default: {
        const rest: never = entry.kind;
        return rest;
      }
    }
  }

  #attributes(entry: TarEntry): Attributes {
    const xattrs = new Map<string, string>();
    for (const [name, value] of entry.xattrs) {
      // trusted.overlay.* would steer the overlay that the guest mounts on top.
      const fits = XATTR_PREFIXES.some((p) => name.startsWith(p) && name.length > p.length);
      if (fits && !name.startsWith("trusted.overlay.") && !name.includes("\0"))
        xattrs.set(name, value);
      else this.droppedXattrs.set(name, (this.droppedXattrs.get(name) ?? 0) + 1);
    }
    const { mode, uid, gid, mtime } = entry;
    return { mode, uid, gid, mtime, xattrs };
  }
}

/** About what the entry costs in memory; the layers' bytes are not kept, this is. */
function metadataBytes({ name, linkName, xattrs, segments }: TarEntry): number {
  let bytes = 128 + name.length + linkName.length + segments.length * 48;
  for (const [key, value] of xattrs) bytes += 64 + key.length + value.length;
  return bytes;
}

function linkTarget(entry: TarEntry): string {
  const { linkName } = entry;
  if (linkName === "" || linkName.includes("\0") || linkName.length > LIMITS.imagePathBytes)
    throw new TarError(`the symbolic link ${showName(entry.name)} has an impossible target`);
  return linkName;
}

function deviceNumbers(entry: TarEntry): { major: number; minor: number } {
  const { major, minor } = entry;
  // dev_t is 12 + 20 bits in Linux.
  if (major < 0 || major > 0xfff || minor < 0 || minor > 0xf_ffff)
    throw new TarError(`the device ${showName(entry.name)} has the numbers ${major}:${minor}`);
  return { major, minor };
}
