/**
 * Describes a file tree, one line per entry, so that what a guest sees can be
 * compared with what an independent tool unpacked. The describer is Python,
 * because it must run inside a Debian guest as well as beside the test.
 *
 * A line: path, type, mode, uid:gid, mtime in seconds, nlink of non-directories,
 * hard link group (first path of the group), device numbers, link target, xattrs,
 * size and SHA-256 of contents, tab-separated; bytes that are not printable
 * ASCII are backslash-escaped. overlayfs keeps private xattrs in trusted.*,
 * which are left out.
 */
export const DESCRIBE_TREE = String.raw`
import hashlib, os, stat, sys
top = os.fsencode(sys.argv[1])
groups = {}
def show(b):
    return "".join(chr(c) if 33 <= c < 127 and c != 92 else "\\x%02x" % c for c in b)
def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()[:32]
def xattrs(path):
    names = sorted(n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("trusted."))
    return ",".join(show(os.fsencode(n)) + "=" + show(os.getxattr(path, n, follow_symlinks=False)) for n in names)
def describe(path, name):
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    group = ""
    if kind != stat.S_IFDIR and s.st_nlink > 1:
        group = groups.setdefault((s.st_dev, s.st_ino), name)
    fields = [show(name) or "/", "%o" % kind, "%o" % stat.S_IMODE(s.st_mode), "%d:%d" % (s.st_uid, s.st_gid), str(int(s.st_mtime))]
    fields.append("" if kind == stat.S_IFDIR else str(s.st_nlink))
    fields.append(show(group) if group else "")
    fields.append("%d:%d" % (os.major(s.st_rdev), os.minor(s.st_rdev)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else "")
    fields.append(show(os.readlink(path)) if kind == stat.S_IFLNK else "")
    fields.append(xattrs(path))
    if kind == stat.S_IFREG:
        fields += [str(s.st_size), digest(path)]
    print("\t".join(fields))
def walk(path, name):
    describe(path, name)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for child in sorted(os.listdir(path)):
            walk(os.path.join(path, child), name + b"/" + child)
sys.setrecursionlimit(10000)
walk(top, b"")
`;

/** Describes a tree of this machine. Throws with Python's own words when it cannot. */
export function describeTree(top: string): string[] {
  const run = Bun.spawnSync(["python3", "-c", DESCRIBE_TREE, top]);
  if (run.exitCode !== 0) throw new Error(`describing ${top} failed: ${run.stderr.toString()}`);
  return run.stdout.toString().trimEnd().split("\n");
}

export type TreeDifference = { path: string; expected: string | null; actual: string | null };

/** The entries that differ, by path; empty when the trees are equal. */
export function compareTrees(expected: string[], actual: string[]): TreeDifference[] {
  const byPath = (lines: string[]): Map<string, string> =>
    new Map(lines.map((line) => [line.split("\t", 1)[0] ?? "", line]));
  const left = byPath(expected);
  const right = byPath(actual);
  return [...new Set([...left.keys(), ...right.keys()])]
    .toSorted()
    .filter((path) => left.get(path) !== right.get(path))
    .map((path) => ({
      path,
      expected: left.get(path) ?? null,
      actual: right.get(path) ?? null,
    }));
}
