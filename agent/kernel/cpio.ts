/**
 * Writes an initramfs as an uncompressed "newc" cpio archive (kernel document
 * driver-api/early-userspace/buffer-format): a 110-byte header of hex fields, the
 * name and the data, each padded to 4 bytes. Uncompressed because unpacking in
 * the guest costs more than the file's size saves. Deterministic: no times, no
 * inode numbers but a counter.
 */
export type CpioEntry =
  | { kind: "directory"; path: string; mode: number }
  | { kind: "file"; path: string; mode: number; data: Uint8Array }
  | { kind: "device"; path: string; mode: number; major: number; minor: number };

const TYPE_BITS = { directory: 0o040000, file: 0o100000, device: 0o020000 } as const;
const ALIGN = 4;
const TRAILER = "TRAILER!!!";

/** Parents must come before their children; paths have no leading slash. */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array {
  const parts: Uint8Array[] = [];
  entries.forEach((entry, index) => {
    const data = entry.kind === "file" ? entry.data : new Uint8Array(0);
    const device = entry.kind === "device" ? entry : { major: 0, minor: 0 };
    parts.push(
      header({
        inode: index + 1,
        mode: TYPE_BITS[entry.kind] | entry.mode,
        links: entry.kind === "directory" ? 2 : 1,
        bytes: data.length,
        major: device.major,
        minor: device.minor,
        name: entry.path,
      }),
      data,
      padding(data.length),
    );
  });
  parts.push(header({ inode: 0, mode: 0, links: 1, bytes: 0, major: 0, minor: 0, name: TRAILER }));
  return Buffer.concat(parts);
}

type Fields = {
  inode: number;
  mode: number;
  links: number;
  bytes: number;
  major: number;
  minor: number;
  name: string;
};

function header(fields: Fields): Uint8Array {
  const name = Buffer.from(`${fields.name}\0`);
  const values = [
    fields.inode,
    fields.mode,
    0, // uid
    0, // gid
    fields.links,
    0, // mtime
    fields.bytes,
    0, // device the file is on: major, minor
    0,
    fields.major,
    fields.minor,
    name.length,
    0, // check sum, unused by newc
  ];
  const hex = values.map((value) => value.toString(16).padStart(8, "0")).join("");
  const head = Buffer.concat([Buffer.from(`070701${hex}`), name]);
  return Buffer.concat([head, padding(head.length)]);
}

function padding(length: number): Uint8Array {
  return new Uint8Array((ALIGN - (length % ALIGN)) % ALIGN);
}
