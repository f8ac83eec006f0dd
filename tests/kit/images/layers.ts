/**
 * The upper layers of the debian-python image: every case that breaks image builders, over a
 * real userland. Written as tars and added verbatim, so that the order of entries is ours.
 */
import { tarEnd, tarHeader, tarPadding, type TarItem } from "../../../agent/images/tar-writer.ts";

type Item = TarItem & { data?: string };

/** cap_net_raw+ep as the kernel stores it (struct vfs_cap_data, version 2). */
export const CAP_NET_RAW =
  "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

export function makeTar(items: readonly Item[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const { data = "", ...item } of items) {
    const bytes = Buffer.from(data, "latin1");
    parts.push(tarHeader({ mtime: 1_600_000_000, ...item, size: bytes.length }));
    if (bytes.length > 0) parts.push(bytes, tarPadding(bytes.length));
  }
  parts.push(tarEnd());
  return Buffer.concat(parts);
}

const dir = (name: string, more: Partial<Item> = {}): Item => ({
  name,
  kind: "directory",
  ...more,
});
const file = (name: string, data: string, more: Partial<Item> = {}): Item => ({
  name,
  kind: "file",
  data,
  ...more,
});
const link = (name: string, linkName: string): Item => ({ name, kind: "hardlink", linkName });
const symlink = (name: string, linkName: string): Item => ({ name, kind: "symlink", linkName });
const whiteout = (path: string): Item => file(path.replace(/([^/]+)$/, ".wh.$1"), "");
const opaque = (path: string): Item => file(`${path}/.wh..wh..opq`, "");

/** Bytes that do not compress away and differ from block to block. */
function noise(length: number): string {
  let state = 12345;
  let out = "";
  for (let i = 0; i < length; i += 1) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    out += String.fromCharCode((state >>> 16) & 0xff);
  }
  return out;
}

export const middleLayer = (): Uint8Array =>
  makeTar([
    dir("srv", { mtime: 1_500_000_000 }),
    dir("srv/lev", { mode: 0o2775, uid: 1000, gid: 1000 }),
    file("srv/lev/first", "one inode, three names\n", { mode: 0o640, uid: 33, gid: 33 }),
    link("srv/lev/second", "srv/lev/first"),
    link("srv/third", "srv/lev/first"),
    symlink("srv/lev/sym", "first"),
    link("srv/lev/sym-again", "srv/lev/sym"),
    file("srv/lev/setuid", "#!/bin/sh\n", { mode: 0o4755 }),
    file("srv/lev/setgid", "#!/bin/sh\n", { mode: 0o2755 }),
    dir("srv/lev/sticky", { mode: 0o1777 }),
    file("srv/lev/owner", "", { uid: 3_000_000_000, gid: 70_000 }),
    file("srv/lev/attributes", "x", {
      xattrs: { "user.note": "plain", "user.bytes": "\x00\xff\n=\x80", "user.empty": "" },
    }),
    file("srv/lev/capable", "c", { mode: 0o755, xattrs: { "security.capability": CAP_NET_RAW } }),
    dir("srv/lev/marked", { xattrs: { "user.dir": "yes" } }),
    symlink("srv/lev/dangling", "nowhere/at/all"),
    { name: "srv/lev/fifo", kind: "fifo", mode: 0o600 },
    { name: "srv/lev/null", kind: "char", major: 1, minor: 3, mode: 0o666 },
    { name: "srv/lev/big-numbers", kind: "block", major: 259, minor: 70_000, mode: 0o660 },
    file("srv/lev/big", noise(700_000)),
    file("srv/lev/exact-block", noise(131_072)),
    file("srv/lev/zeros", "\0".repeat(400_000)),
    file(`srv/lev/${"n".repeat(255)}`, "a long name"),
    file("srv/lev/raw-\xff\xfe-name", "not UTF-8"),
    file("srv/lev/new\nline and \\ back", "odd"),
    file("srv/lev/old", "from 1970", { mtime: 0 }),
    file("srv/lev/far", "from 2100", { mtime: 4_102_444_800 }),
    link("srv/lev/perl-link", "usr/bin/perl"),
    // What the next layer takes away or replaces.
    dir("srv/gone"),
    file("srv/gone/child", "hidden"),
    file("srv/gone-file", "hidden"),
    dir("srv/opaque"),
    file("srv/opaque/lower", "hidden"),
    dir("srv/opaque/lower-dir"),
    file("srv/opaque/lower-dir/x", "hidden"),
    file("srv/was-file", "file"),
    dir("srv/was-dir"),
    file("srv/was-dir/child", "hidden"),
    dir("srv/again"),
    file("srv/again/old-child", "hidden"),
    dir("srv/kept", { mode: 0o700 }),
    file("srv/kept/child", "stays"),
    file("srv/target", "before"),
    link("srv/target-link", "srv/target"),
  ]);

export const upperLayer = (): Uint8Array =>
  makeTar([
    dir("srv", { mtime: 1_550_000_000 }),
    whiteout("srv/gone"),
    whiteout("srv/gone-file"),
    whiteout("srv/never-was"),
    dir("srv/opaque", { mode: 0o751 }),
    file("srv/opaque/before", "above the mark"),
    opaque("srv/opaque"),
    file("srv/opaque/after", "below the mark"),
    dir("srv/was-file"),
    file("srv/was-file/child", "now a directory"),
    file("srv/was-dir", "now a file"),
    whiteout("srv/again"),
    dir("srv/again"),
    file("srv/again/new-child", "new"),
    dir("srv/kept", { mode: 0o711, uid: 7 }),
    file("srv/target", "after"),
    // /bin is a link to usr/bin in Debian.
    file("bin/lev-tool", "#!/bin/sh\necho tool\n", { mode: 0o755 }),
    dir("usr/bin", { mtime: 1_580_000_000 }),
    whiteout("usr/share/doc"),
  ]);
