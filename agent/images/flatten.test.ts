import { describe, expect, test } from "bun:test";
import { Flattener } from "./flatten.ts";
import type { TarEntry } from "./tar.ts";
import type { Directory } from "./tree.ts";

type Given = Partial<TarEntry> & { name: string };

const entry = (given: Given): TarEntry => ({
  kind: "file",
  linkName: "",
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: 1,
  major: 0,
  minor: 0,
  size: 0,
  segments: [],
  xattrs: new Map(),
  ...given,
});

const file = (name: string, more: Partial<TarEntry> = {}): TarEntry => entry({ name, ...more });
const dir = (name: string, more: Partial<TarEntry> = {}): TarEntry =>
  entry({ name, kind: "directory", mode: 0o755, ...more });
const link = (name: string, linkName: string): TarEntry =>
  entry({ name, kind: "hardlink", linkName });
const symlink = (name: string, linkName: string): TarEntry =>
  entry({ name, kind: "symlink", linkName });

function lay(...layers: TarEntry[][]): Flattener {
  const flattener = new Flattener();
  for (const layer of layers) {
    flattener.nextLayer();
    for (const each of layer) flattener.add(each);
  }
  return flattener;
}

/** "path" of files, "path/" of directories, "path@" of links, in order. */
function paths(flattener: Flattener): string[] {
  const out: string[] = [];
  const visit = (directory: Directory, prefix: string): void => {
    for (const name of [...directory.entries.keys()].sort()) {
      const inode = directory.entries.get(name)?.inode;
      if (inode?.kind === "directory") {
        out.push(`${prefix}${name}/`);
        visit(inode, `${prefix}${name}/`);
      } else out.push(`${prefix}${name}${inode?.kind === "symlink" ? "@" : ""}`);
    }
  };
  visit(flattener.tree.root, "");
  return out;
}

const at = (flattener: Flattener, path: string) => flattener.tree.lookup(path.split("/"))?.inode;

describe("whiteouts", () => {
  const lower = [dir("d"), file("d/a"), file("d/b"), dir("d/s"), file("d/s/x")];

  test("hide a file and a directory of a lower layer", () => {
    expect(paths(lay(lower, [file("d/.wh.a"), file("d/.wh.s")]))).toEqual(["d/", "d/b"]);
  });

  for (const [order, upper] of [
    ["before", [file("d/.wh.a"), file("d/a", { mode: 0o600 })]],
    ["after", [file("d/a", { mode: 0o600 }), file("d/.wh.a")]],
  ] as const)
    test(`act on lower layers only when they come ${order} their sibling`, () => {
      const flattener = lay(lower, [...upper]);
      expect(at(flattener, "d/a")).toMatchObject({ mode: 0o600 });
    });

  for (const [order, upper] of [
    ["before", [dir("d"), file("d/.wh..wh..opq"), file("d/new")]],
    ["after", [dir("d"), file("d/new"), file("d/.wh..wh..opq")]],
    ["without the directory's own entry", [file("d/.wh..wh..opq"), file("d/new")]],
  ] as const)
    test(`an opaque mark hides lower children only: ${order}`, () => {
      expect(paths(lay(lower, [...upper]))).toEqual(["d/", "d/new"]);
    });

  test("an opaque mark reaches into directories that this layer has filled", () => {
    const upper = [dir("d"), dir("d/s"), file("d/s/y"), file("d/.wh..wh..opq")];
    expect(paths(lay(lower, upper))).toEqual(["d/", "d/s/", "d/s/y"]);
  });

  test("a directory that is removed and made again has not its old children", () => {
    expect(paths(lay(lower, [file(".wh.d")], [dir("d"), file("d/z")]))).toEqual(["d/", "d/z"]);
    expect(paths(lay(lower, [file(".wh.d"), dir("d"), file("d/z")]))).toEqual(["d/", "d/z"]);
    expect(paths(lay(lower, [dir("d"), file("d/z"), file(".wh.d")]))).toEqual(["d/", "d/z"]);
  });

  test("a removed directory that comes back by a child only is 0755 root, in either order", () => {
    const private_ = [dir("d", { mode: 0o700, uid: 5 }), file("d/a")];
    for (const upper of [
      [file(".wh.d"), file("d/z")],
      [file("d/z"), file(".wh.d")],
    ]) {
      const flattener = lay(private_, upper);
      expect(paths(flattener)).toEqual(["d/", "d/z"]);
      expect(at(flattener, "d")).toMatchObject({ mode: 0o755, uid: 0 });
    }
  });

  test("of what is not there do nothing", () => {
    expect(paths(lay([file(".wh.x"), file("no/dir/.wh.y"), file("q/.wh..wh..opq")]))).toEqual([]);
  });

  test("an opaque mark on what is a link below leaves the link's target alone", () => {
    const below = [dir("t"), file("t/keep"), symlink("d", "t")];
    expect(paths(lay(below, [file("d/.wh..wh..opq"), file("d/new")]))).toEqual([
      "d/",
      "d/new",
      "t/",
      "t/keep",
    ]);
  });

  for (const name of [".wh.", "d/.wh.", ".wh..", ".wh..."])
    test(`"${name}" names nothing and is refused`, () => {
      expect(() => lay([dir("d")], [file(name)])).toThrow(
        expect.objectContaining({ reason: "IMAGE_CORRUPT" }),
      );
    });

  test("AUFS bookkeeping and eStargz landmarks are not files of the image", () => {
    expect(
      paths(lay([dir(".wh..wh.plnk"), file(".prefetch.landmark"), file("d/.prefetch.landmark")])),
    ).toEqual(["d/", "d/.prefetch.landmark"]);
  });
});

describe("layers over each other", () => {
  test("a directory replaced by a file and back has not its old children", () => {
    expect(paths(lay([dir("d"), file("d/a")], [file("d")], [dir("d")]))).toEqual(["d/"]);
  });

  test("two directories: attributes replaced, children kept", () => {
    const flattener = lay([dir("d"), file("d/a")], [dir("d", { mode: 0o700, gid: 9 })]);
    expect(paths(flattener)).toEqual(["d/", "d/a"]);
    expect(at(flattener, "d")).toMatchObject({ mode: 0o700, gid: 9 });
  });

  test("a parent without an entry is 0755 root; a later entry updates it", () => {
    const flattener = lay([file("a/b/c"), dir("a", { mode: 0o711 })]);
    expect(at(flattener, "a/b")).toMatchObject({ mode: 0o755, uid: 0, gid: 0 });
    expect(at(flattener, "a")).toMatchObject({ mode: 0o711 });
  });

  test("the root's own attributes are kept", () => {
    const flattener = lay([dir("./", { mode: 0o1711, uid: 5, mtime: 77 })], [file("x")]);
    expect(flattener.tree.root).toMatchObject({ mode: 0o1711, uid: 5, mtime: 77 });
  });

  test("the same path twice in a layer: the last wins", () => {
    const flattener = lay([file("a", { mode: 0o600 }), file("a", { mode: 0o640 })]);
    expect(at(flattener, "a")).toMatchObject({ mode: 0o640 });
  });

  test("a hard link keeps its inode when the other name is overwritten or removed", () => {
    const flattener = lay(
      [file("a", { mode: 0o600 }), link("b", "a"), link("c", "a")],
      [file("a", { mode: 0o640 }), file(".wh.c"), link("e", "b")],
    );
    expect(at(flattener, "b")).toMatchObject({ mode: 0o600 });
    expect(at(flattener, "a")).toMatchObject({ mode: 0o640 });
    expect(at(flattener, "e")).toBe(at(flattener, "b"));
    expect(at(flattener, "c")).toBeUndefined();
  });

  test("a hard link to a symbolic link is the link itself", () => {
    const flattener = lay([symlink("s", "nowhere"), link("h", "s")]);
    expect(at(flattener, "h")).toMatchObject({ kind: "symlink", target: "nowhere" });
  });

  test("entries below a symbolic link land where it leads, inside the root", () => {
    const flattener = lay(
      [dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), symlink("up", "../../../usr")],
      [file("lib/x"), file("up/y"), file("abs-missing/../lib/z"), symlink("lib64", "/usr/lib")],
      [file("lib64/w"), file("lib/.wh.x")],
    );
    expect(paths(flattener)).toEqual([
      "lib@",
      "lib64@",
      "up@",
      "usr/",
      "usr/lib/",
      "usr/lib/w",
      "usr/lib/z",
      "usr/y",
    ]);
  });

  test("xattrs that squashfs cannot hold, or that would steer overlayfs, are left out and counted", () => {
    const xattrs = new Map([
      ["user.a", "1"],
      ["system.posix_acl_access", "2"],
      ["trusted.overlay.opaque", "y"],
      ["security.capability", "3"],
    ]);
    const flattener = lay([file("f", { xattrs })]);
    expect([...(at(flattener, "f")?.xattrs.keys() ?? [])]).toEqual([
      "user.a",
      "security.capability",
    ]);
    expect([...flattener.droppedXattrs.keys()]).toEqual([
      "system.posix_acl_access",
      "trusted.overlay.opaque",
    ]);
  });
});

describe("hostile paths", () => {
  const hostile: [string, TarEntry][] = [
    ["a path out of the root", file("../x")],
    ["a path out of the root by detour", file("a/../../x")],
    ["a NUL byte", file("a\0b")],
    ["a name of 256 bytes", file("n".repeat(256))],
    ["a path of 5000 bytes", file("a/".repeat(2500))],
    ["a path 300 deep", file("a/".repeat(300))],
    ["a hard link out of the root", link("h", "../../etc/passwd")],
    ["a hard link to nothing", link("h", "nothing")],
    ["a hard link to a directory", link("h", "d")],
    ["a symbolic link without a target", symlink("s", "")],
    ["a device number of 13 bits", entry({ name: "c", kind: "char", major: 0x1000 })],
    ["a root that is a file", file("/")],
  ];
  for (const [what, bad] of hostile)
    test(`${what} is refused as IMAGE_CORRUPT`, () => {
      expect(() => lay([dir("d"), bad])).toThrow(
        expect.objectContaining({ reason: "IMAGE_CORRUPT" }),
      );
    });

  test("symbolic links that go round are refused instead of followed for ever", () => {
    expect(() => lay([symlink("a", "b"), symlink("b", "a"), file("a/x")])).toThrow("go round");
  });

  test("a leading slash and inner dots are stripped as Docker does", () => {
    expect(paths(lay([file("/etc/x"), file("./a/./b//c"), file("q/../r")]))).toEqual([
      "a/",
      "a/b/",
      "a/b/c",
      "etc/",
      "etc/x",
      "r",
    ]);
  });
});
