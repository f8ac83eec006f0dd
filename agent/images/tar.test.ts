import { describe, expect, test } from "bun:test";
import { ByteReader } from "./byte-reader.ts";
import { walkTar, type TarEntry } from "./tar.ts";
import { parseNumber, parsePax } from "./tar-header.ts";
import { tarEnd, tarHeader, tarPadding, type TarItem } from "./tar-writer.ts";

/** In pieces of an odd size, so that every boundary is crossed somewhere. */
async function* pieces(bytes: Uint8Array, size = 97): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function walk(...parts: Uint8Array[]): Promise<TarEntry[]> {
  const entries: TarEntry[] = [];
  for await (const entry of walkTar(new ByteReader(pieces(Buffer.concat(parts)))))
    entries.push(entry);
  return entries;
}

function record(item: TarItem & { data?: string }): Uint8Array {
  const data = Buffer.from(item.data ?? "", "latin1");
  return Buffer.concat([tarHeader({ ...item, size: data.length }), data, tarPadding(data.length)]);
}

const text = (length: number, at: number, block: Uint8Array, value: string): void => {
  block.fill(0, at, at + length);
  block.set(Buffer.from(value, "latin1"), at);
};

/** Changes a header block and mends its checksum. */
function patched(header: Uint8Array, change: (block: Uint8Array) => void): Uint8Array {
  const block = Uint8Array.from(header);
  change(block);
  block.fill(32, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  text(8, 148, block, `${sum.toString(8).padStart(6, "0")}\0 `);
  return block;
}

const typed = (type: string, name: string, data: string): Uint8Array =>
  Buffer.concat([
    patched(tarHeader({ name, kind: "file", size: data.length }), (block) =>
      text(1, 156, block, type),
    ),
    Buffer.from(data, "latin1"),
    tarPadding(data.length),
  ]);

const pax = (...records: [string, string][]): string =>
  records
    .map(([key, value]) => {
      const rest = ` ${key}=${value}\n`;
      let length = rest.length + 1;
      while (String(length).length + rest.length !== length)
        length = String(length).length + rest.length;
      return `${length}${rest}`;
    })
    .join("");

describe("walkTar", () => {
  test("gives kinds, attributes and the place of the data", async () => {
    const entries = await walk(
      record({ name: "d", kind: "directory", mode: 0o1777, mtime: 5 }),
      record({ name: "d/f", kind: "file", mode: 0o4755, uid: 7, gid: 8, data: "hello" }),
      record({ name: "l", kind: "symlink", linkName: "d/f" }),
      record({ name: "h", kind: "hardlink", linkName: "d/f" }),
      record({ name: "c", kind: "char", major: 1, minor: 3 }),
      tarEnd(),
    );
    expect(entries.map(({ kind }) => kind)).toEqual([
      "directory",
      "file",
      "symlink",
      "hardlink",
      "char",
    ]);
    expect(entries[0]).toMatchObject({ name: "d/", mode: 0o1777, mtime: 5 });
    expect(entries[1]).toMatchObject({ mode: 0o4755, uid: 7, gid: 8, size: 5 });
    expect(entries[1]?.segments).toEqual([{ offset: 0, length: 5, at: 1024 }]);
    expect(entries[3]?.linkName).toBe("d/f");
    expect(entries[4]).toMatchObject({ major: 1, minor: 3 });
  });

  test("reads PAX names, ids, times and binary xattrs", async () => {
    const name = `${"\xff".repeat(120)}/${"x".repeat(200)}`;
    const [entry] = await walk(
      record({
        name,
        kind: "file",
        uid: 3_000_000_000,
        mtime: -7,
        xattrs: { "user.a": "\x00=\n\xff" },
      }),
      tarEnd(),
    );
    expect(entry?.name).toBe(name);
    expect(entry).toMatchObject({ uid: 3_000_000_000, mtime: -7 });
    expect(entry?.xattrs.get("user.a")).toBe("\x00=\n\xff");
  });

  test("rounds times before 1970 and fractions down", async () => {
    const [entry] = await walk(typed("x", "p", pax(["mtime", "-1.5"])), typed("0", "f", ""));
    expect(entry?.mtime).toBe(-2);
  });

  test("reads GNU long names and long links", async () => {
    const long = "n".repeat(300);
    const [entry] = await walk(
      typed("L", "././@LongLink", `${long}\0`),
      typed("K", "././@LongLink", `${long}-target\0`),
      record({ name: "short", kind: "symlink", linkName: "s" }),
      tarEnd(),
    );
    expect(entry).toMatchObject({ name: long, linkName: `${long}-target` });
  });

  test("global PAX headers hold for later entries, local ones win, an empty value takes back", async () => {
    const entries = await walk(
      typed("g", "g", pax(["uid", "42"], ["SCHILY.xattr.user.g", "1"])),
      typed("0", "a", ""),
      typed("x", "p", pax(["uid", "43"], ["SCHILY.xattr.user.g", ""])),
      typed("0", "b", ""),
    );
    expect(entries.map(({ uid }) => uid)).toEqual([42, 43]);
    expect(entries.map(({ xattrs }) => xattrs.size)).toEqual([1, 0]);
  });

  test("joins ustar's prefix, but not GNU's other use of that field", async () => {
    const prefixed = (magic: string): Uint8Array =>
      patched(tarHeader({ name: "f", kind: "file" }), (block) => {
        text(8, 257, block, magic);
        text(155, 345, block, "pre/fix");
      });
    const entries = await walk(prefixed("ustar\x0000"), prefixed("ustar  \0"));
    expect(entries.map(({ name }) => name)).toEqual(["pre/fix/f", "f"]);
  });

  test("a file whose name ends in a slash is a directory of an old tar", async () => {
    const [entry] = await walk(typed("\0", "old/", ""));
    expect(entry?.kind).toBe("directory");
  });

  test("reads sparse files of PAX 0.0, 0.1 and 1.0", async () => {
    const map: [string, string][] = [
      ["GNU.sparse.offset", "10"],
      ["GNU.sparse.numbytes", "3"],
      ["GNU.sparse.offset", "20"],
      ["GNU.sparse.numbytes", "2"],
    ];
    const expected = { size: 30, lengths: [3, 2], offsets: [10, 20] };
    const variants = [
      [pax(["GNU.sparse.size", "30"], ["GNU.sparse.numblocks", "2"], ...map), "abcde"],
      [pax(["GNU.sparse.size", "30"], ["GNU.sparse.map", "10,3,20,2"]), "abcde"],
      [
        pax(["GNU.sparse.major", "1"], ["GNU.sparse.minor", "0"], ["GNU.sparse.realsize", "30"]),
        `${"2\n10\n3\n20\n2\n".padEnd(512, "\0")}abcde`,
      ],
    ] as const;
    for (const [header, data] of variants) {
      const entries = await walk(
        typed("x", "p", header),
        typed("0", "f", data),
        typed("0", "z", ""),
      );
      const [entry] = entries;
      expect({
        size: entry?.size,
        lengths: entry?.segments.map(({ length }) => length),
        offsets: entry?.segments.map(({ offset }) => offset),
      }).toEqual(expected);
      expect(entries[1]?.name).toBe("z");
    }
  });

  test("reads GNU's old sparse header with an extension block", async () => {
    const octal = (value: number): string => `${value.toString(8).padStart(11, "0")}\0`;
    const head = patched(tarHeader({ name: "s", kind: "file", size: 5 }), (block) => {
      text(8, 257, block, "ustar  \0");
      text(1, 156, block, "S");
      block.fill(0, 345, 512);
      for (let i = 0; i < 4; i += 1) text(24, 386 + i * 24, block, octal(i * 100) + octal(1));
      block[482] = 1;
      text(12, 483, block, octal(1000));
    });
    const more = new Uint8Array(512);
    text(24, 0, more, octal(999) + octal(1));
    const data = Buffer.concat([Buffer.from("abcde"), tarPadding(5)]);
    const [entry, next] = await walk(head, more, data, typed("0", "next", ""));
    expect(entry).toMatchObject({ name: "s", size: 1000 });
    expect(entry?.segments.at(-1)).toEqual({ offset: 999, length: 1, at: 1028 });
    expect(next?.name).toBe("next");
  });

  const broken: [string, Uint8Array[]][] = [
    [
      "a wrong checksum",
      [tarHeader({ name: "f", kind: "file" }).map((b, i) => (i === 0 ? b + 1 : b))],
    ],
    ["bytes that are no tar", [Buffer.alloc(512, "garbage")]],
    ["an end inside a header", [tarHeader({ name: "f", kind: "file" }).subarray(0, 300)]],
    [
      "an end inside a file",
      [tarHeader({ name: "f", kind: "file", size: 1000 }), new Uint8Array(512)],
    ],
    ["a PAX record without its newline", [typed("x", "p", "12 path=abcX"), typed("0", "f", "")]],
    ["a PAX length beyond the header", [typed("x", "p", "99 path=a\n"), typed("0", "f", "")]],
    ["a PAX number that is none", [typed("x", "p", pax(["uid", "12a"])), typed("0", "f", "")]],
    ["an owner of 2^32-1", [typed("x", "p", pax(["uid", "4294967295"])), typed("0", "f", "")]],
    [
      "a sparse map that goes back",
      [
        typed("x", "p", pax(["GNU.sparse.size", "30"], ["GNU.sparse.map", "10,3,5,2"])),
        typed("0", "f", "abcde"),
      ],
    ],
    [
      "a sparse map longer than the data",
      [
        typed("x", "p", pax(["GNU.sparse.size", "30"], ["GNU.sparse.map", "10,9"])),
        typed("0", "f", "abcde"),
      ],
    ],
  ];
  for (const [what, parts] of broken)
    test(`refuses ${what} as IMAGE_CORRUPT`, async () => {
      expect(await walk(...parts).catch((error: unknown) => error)).toMatchObject({
        reason: "IMAGE_CORRUPT",
      });
    });

  test("refuses an unknown type by name and an extension header without bounds", async () => {
    expect(await walk(typed("V", "v", "")).catch((e: unknown) => e)).toMatchObject({
      reason: "IMAGE_UNSUPPORTED",
    });
    const huge = patched(tarHeader({ name: "p", kind: "file" }), (block) => {
      text(1, 156, block, "x");
      text(12, 124, block, `${(1 << 30).toString(8)}\0`);
    });
    expect(await walk(huge).catch((e: unknown) => e)).toMatchObject({ reason: "IMAGE_TOO_LARGE" });
  });
});

describe("parseNumber", () => {
  const field = (...bytes: number[]): Uint8Array => Uint8Array.from(bytes);
  test("reads base-256, positive and negative", () => {
    expect(parseNumber(field(0x80, 0, 0, 0, 0xb2, 0xd0, 0x5e, 0), 0, 8, "uid")).toBe(3_000_000_000);
    expect(parseNumber(new Uint8Array(12).fill(0xff), 0, 12, "mtime")).toBe(-1);
  });
  test("refuses numbers no double can hold", () => {
    expect(() =>
      parseNumber(new Uint8Array(12).fill(0x7f).fill(0xbf, 0, 1), 0, 12, "size"),
    ).toThrow("does not fit");
  });
});

test("parsePax keeps '=' and newlines inside values and stops at NUL padding", () => {
  const bytes = Buffer.from(`${pax(["a", "b=c\nd"])}\0\0`, "latin1");
  expect(parsePax(bytes)).toEqual([["a", "b=c\nd"]]);
});
