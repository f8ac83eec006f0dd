/**
 * Random stacks of layers, and what they must become by the words of the OCI image-spec
 * (layer.md, "Applying Changesets"), written without looking at how the product does it: a
 * layer is applied in two steps, first what it removes from the layers below, then its entries
 * in order. A node is one inode, so that hard links are names of the same object.
 */
import { tarHeader, tarEnd, tarPadding, type TarItem } from "../../../agent/images/tar-writer.ts";

type Kind = "file" | "directory" | "symlink" | "char" | "fifo";
type Node = {
  kind: Kind;
  mode: number;
  uid: number;
  gid: number;
  mtime: number;
  data: string;
  xattr: string;
};
export type Item = TarItem & { data: string };
export type Stack = { layers: Item[][]; model: Map<string, Node> };

/** mulberry32: small, and the same everywhere. */
export function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

const NAMES = ["a", "b", "c", "dd", "e.f", "-g", "h h", "ü", "wh", "..z"];
const MODES = [0o644, 0o600, 0o4755, 0o2711, 0o1777, 0o000];
/** Without setgid: below it umoci's own mkdir gives the group on to what no entry describes. */
const DIRECTORY_MODES = [0o755, 0o700, 0o1777, 0o511, 0o000];
const IDS = [0, 1, 1000, 70_000, 3_000_000_000];

const parentOf = (path: string): string => path.slice(0, Math.max(path.lastIndexOf("/"), 0));
const isBelow = (path: string, top: string): boolean => path.startsWith(`${top}/`);

class Generator {
  readonly #random: (below: number) => number;
  readonly #model = new Map<string, Node>();
  #entries: Item[] = [];
  #removals: Item[] = [];
  /** Where this layer removes: nothing there may stop being a directory in this layer. */
  #marked: string[] = [];
  /** Links this layer removes. What is put below them depends on the order of entries: not made. */
  #removedLinks: string[] = [];
  constructor(random: (below: number) => number) {
    this.#random = random;
  }

  stack(): Stack {
    const layers: Item[][] = [];
    const count = 1 + this.#random(8);
    for (let layer = 0; layer < count; layer += 1) layers.push(this.#layer());
    return { layers, model: this.#model };
  }

  #layer(): Item[] {
    this.#entries = [];
    this.#removals = [];
    this.#marked = [];
    this.#removedLinks = [];
    for (let n = this.#random(4); n > 0; n -= 1) this.#remove();
    if (this.#random(4) === 0) this.#rename();
    for (let n = this.#random(9); n > 0; n -= 1) this.#add();
    const out = [...this.#entries];
    // A removal acts on lower layers only, wherever it stands.
    for (const removal of this.#removals) out.splice(this.#random(out.length + 1), 0, removal);
    return out;
  }

  #pick<T>(from: readonly T[]): T | undefined {
    return from[this.#random(from.length)];
  }

  #paths(kind?: Kind): string[] {
    return [...this.#model].filter(([, node]) => !kind || node.kind === kind).map(([p]) => p);
  }

  #mark(name: string, at: string): void {
    const path = at === "" ? name : `${at}/${name}`;
    const bytes = Buffer.from(path).toString("latin1");
    this.#removals.push({ name: bytes, kind: "file", data: "", mode: 0o600 });
  }

  #dropBelow(top: string): void {
    for (const path of this.#model.keys()) if (isBelow(path, top)) this.#drop(path);
  }

  #drop(path: string): void {
    if (this.#model.get(path)?.kind === "symlink") this.#removedLinks.push(path);
    this.#model.delete(path);
  }

  #remove(): void {
    if (this.#random(3) === 0) {
      const dir = this.#pick(this.#paths("directory"));
      if (dir === undefined) return;
      this.#mark(".wh..wh..opq", dir);
      this.#marked.push(dir);
      this.#dropBelow(dir);
      return;
    }
    const known = this.#pick(this.#paths());
    const path = this.#random(6) === 0 || known === undefined ? "not-there" : known;
    this.#whiteout(path);
  }

  #whiteout(path: string): void {
    this.#mark(`.wh.${path.slice(path.lastIndexOf("/") + 1)}`, parentOf(path));
    this.#marked.push(path);
    this.#drop(path);
    this.#dropBelow(path);
  }

  /** What overlayfs makes of rename(2): the old name removed, everything again under the new. */
  #rename(): void {
    const from = this.#pick(this.#paths("directory"));
    if (from === undefined) return;
    const to = `renamed-${this.#random(50)}`;
    if (this.#model.has(to)) return;
    const moved = [...this.#model].filter(([path]) => path === from || isBelow(path, from));
    this.#whiteout(from);
    for (const [path, node] of moved) this.#put(`${to}${path.slice(from.length)}`, { ...node });
  }

  #add(): void {
    const parent = this.#random(2) === 0 ? "" : (this.#pick(this.#paths("directory")) ?? "");
    let path = `${parent === "" ? "" : `${parent}/`}${this.#pick(NAMES) ?? "a"}`;
    // Sometimes below a directory that has no entry of its own.
    if (this.#random(6) === 0 && !this.#model.has(path)) path += `/${this.#pick(NAMES) ?? "a"}`;
    if (this.#removedLinks.some((gone) => isBelow(path, gone))) return;
    const roll = this.#random(10);
    const mayReplace = !this.#marked.some((m) => m === path || isBelow(m, path));
    const old = this.#model.get(path);
    if (roll < 2 && (old === undefined || old.kind !== "directory" || mayReplace)) {
      const target = this.#pick(this.#paths().filter((p) => this.#linkable(p, path)));
      if (target !== undefined) return this.#link(path, target);
    }
    const kind: Kind =
      roll < 5
        ? "file"
        : roll < 8
          ? "directory"
          : (this.#pick(["symlink", "char", "fifo"] as const) ?? "fifo");
    if (kind !== "directory" && old?.kind === "directory" && !mayReplace) return;
    this.#put(path, this.#node(kind));
  }

  #linkable(target: string, path: string): boolean {
    return (
      this.#model.get(target)?.kind !== "directory" && target !== path && !isBelow(target, path)
    );
  }

  #node(kind: Kind): Node {
    const size = this.#random(20) === 0 ? 140_000 : this.#random(40);
    return {
      kind,
      mode:
        kind === "symlink"
          ? 0o777
          : (this.#pick(kind === "directory" ? DIRECTORY_MODES : MODES) ?? 0o644),
      uid: this.#pick(IDS) ?? 0,
      gid: this.#pick(IDS) ?? 0,
      mtime: 1_000_000 + this.#random(1_000_000),
      data:
        kind === "file"
          ? `${this.#random(1e6)}`.repeat(size)
          : kind === "symlink"
            ? "no/where"
            : "",
      xattr: kind === "file" && this.#random(5) === 0 ? `v${this.#random(9)}` : "",
    };
  }

  #implyParents(path: string): void {
    for (let at = parentOf(path); at !== ""; at = parentOf(at)) {
      if (this.#model.get(at)?.kind === "directory") continue;
      this.#model.set(at, { ...this.#node("directory"), mode: 0o755, uid: 0, gid: 0, mtime: 0 });
    }
  }

  #put(path: string, node: Node): void {
    this.#implyParents(path);
    if (node.kind !== "directory") this.#dropBelow(path);
    this.#model.set(path, node);
    const { mode, uid, gid, mtime, data, xattr, kind } = node;
    const item: Item = { name: path, kind, mode, uid, gid, mtime, data: "" };
    if (kind === "file") item.data = data;
    if (kind === "symlink") item.linkName = data;
    if (kind === "char") Object.assign(item, { major: 1, minor: 3 });
    if (xattr !== "") item.xattrs = { "user.x": xattr };
    this.#entries.push({ ...item, name: Buffer.from(path).toString("latin1") });
  }

  #link(path: string, target: string): void {
    const node = this.#model.get(target);
    if (node === undefined) return;
    this.#implyParents(path);
    this.#dropBelow(path);
    this.#model.set(path, node);
    const bytes = (text: string): string => Buffer.from(text).toString("latin1");
    this.#entries.push({ name: bytes(path), kind: "hardlink", linkName: bytes(target), data: "" });
  }
}

export function randomStack(seed: number): Stack {
  return new Generator(randomOf(seed)).stack();
}

export function tarOf(items: readonly Item[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const { data, ...item } of items) {
    const bytes = Buffer.from(data, "latin1");
    parts.push(tarHeader({ ...item, size: bytes.length }));
    if (bytes.length > 0) parts.push(bytes, tarPadding(bytes.length));
  }
  parts.push(tarEnd());
  return Buffer.concat(parts);
}

/** One line per name; a name of an inode with several names says which was first. */
export function describeModel(model: ReadonlyMap<string, Node>): string[] {
  const first = new Map<Node, string>();
  return [...model]
    .map(([path, node]) => [Buffer.from(path).toString("latin1"), node] as const)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([path, node]) => {
      const group = first.get(node) ?? path;
      first.set(node, group);
      const { kind, mode, uid, gid, mtime, data, xattr } = node;
      return [path, kind, mode, uid, gid, mtime, xattr, group, Bun.hash(data)].join("|");
    });
}
