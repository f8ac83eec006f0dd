/** Tar headers for what we write ourselves: ustar, with a PAX header where ustar is too small. */
import { BLOCK, bytesToName, nameToBytes } from "./tar-header.ts";

export type TarItem = {
  /** Byte string; directories without a closing slash. */
  name: string;
  kind: "file" | "directory" | "symlink" | "hardlink" | "char" | "block" | "fifo";
  mode?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  linkName?: string;
  size?: number;
  major?: number;
  minor?: number;
  /** Full name → byte string. */
  xattrs?: Record<string, string>;
};

const FLAGS = {
  file: "0",
  hardlink: "1",
  symlink: "2",
  char: "3",
  block: "4",
  directory: "5",
  fifo: "6",
} as const;

const OCTAL_7 = 0o7777777;
const OCTAL_11 = 0o77777777777;

/** The header block(s) of an item; `size` bytes of data and tarPadding(size) follow. */
export function tarHeader(item: TarItem): Uint8Array {
  const pax = new Map<string, string>();
  const name = item.kind === "directory" ? `${item.name}/` : item.name;
  const { linkName = "", size = 0, mtime = 0, uid = 0, gid = 0 } = item;
  if (name.length > 100 || !isAscii(name)) pax.set("path", name);
  if (linkName.length > 100 || !isAscii(linkName)) pax.set("linkpath", linkName);
  if (uid > OCTAL_7) pax.set("uid", String(uid));
  if (gid > OCTAL_7) pax.set("gid", String(gid));
  if (size > OCTAL_11) pax.set("size", String(size));
  if (mtime < 0 || mtime > OCTAL_11) pax.set("mtime", String(mtime));
  for (const [key, value] of Object.entries(item.xattrs ?? {}))
    pax.set(`SCHILY.xattr.${key}`, value);
  const main = block(item, FLAGS[item.kind], name, size);
  if (pax.size === 0) return main;
  const records = Buffer.concat([...pax].map(([key, value]) => paxRecord(key, value)));
  const head = block({ name: "", kind: "file" }, "x", "PaxHeaders/entry", records.length);
  return Buffer.concat([head, records, tarPadding(records.length), main]);
}

/** Zeros up to the next block. */
export function tarPadding(size: number): Uint8Array {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}

/** The end of an archive. */
export function tarEnd(): Uint8Array {
  return new Uint8Array(2 * BLOCK);
}

/** A file name of this system as a byte string. */
export function toByteString(text: string): string {
  return bytesToName(Buffer.from(text, "utf8"));
}

function isAscii(text: string): boolean {
  for (const character of text) if (character > "\x7f") return false;
  return true;
}

function paxRecord(key: string, value: string): Uint8Array {
  const rest = nameToBytes(` ${key}=${value}\n`);
  // The length counts its own digits.
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length)
    length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function block(item: TarItem, flag: string, name: string, size: number): Uint8Array {
  const out = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number, max: number): void => {
    const fits = value >= 0 && value <= max ? value : 0;
    out.write(fits.toString(8).padStart(digits, "0"), at, "latin1");
  };
  out.set(nameToBytes(name).subarray(0, 100), 0);
  octal(item.mode ?? (item.kind === "directory" ? 0o755 : 0o644), 100, 7, OCTAL_7);
  octal(item.uid ?? 0, 108, 7, OCTAL_7);
  octal(item.gid ?? 0, 116, 7, OCTAL_7);
  octal(size, 124, 11, OCTAL_11);
  octal(item.mtime ?? 0, 136, 11, OCTAL_11);
  out.write(flag, 156, "latin1");
  out.set(nameToBytes(item.linkName ?? "").subarray(0, 100), 157);
  out.write("ustar\x0000", 257, "latin1");
  octal(item.major ?? 0, 329, 7, OCTAL_7);
  octal(item.minor ?? 0, 337, 7, OCTAL_7);
  out.fill(32, 148, 156);
  const sum = out.reduce((total, byte) => total + byte, 0);
  out.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return out;
}
