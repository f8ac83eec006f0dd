import { expect, test } from "bun:test";
import { GuestMemory } from "./guest-memory.ts";
import { type FileReader, loadSegments, planKernel } from "./kernel-image.ts";

function reader(bytes: Uint8Array): FileReader {
  return {
    path: "/k/vmlinux",
    bytes: bytes.length,
    read: (at, into) => {
      if (at < 0 || at + into.length > bytes.length) throw new Error("read outside the file");
      into.set(bytes.subarray(at, at + into.length));
    },
  };
}

type Header = { offset: number; gpa: number; fileBytes: number; memoryBytes: number };

function elf(segments: readonly Header[], bytes = 0x8000, entry = 0x1000010): Uint8Array {
  const file = new Uint8Array(bytes).map((_, i) => i * 7);
  const view = new DataView(file.buffer);
  file.fill(0, 0, 0x400);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(24, BigInt(entry), true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, segments.length, true);
  segments.forEach((segment, i) => {
    const at = 64 + i * 56;
    view.setUint32(at, 1, true);
    view.setBigUint64(at + 8, BigInt(segment.offset), true);
    view.setBigUint64(at + 24, BigInt(segment.gpa), true);
    view.setBigUint64(at + 32, BigInt(segment.fileBytes), true);
    view.setBigUint64(at + 40, BigInt(segment.memoryBytes), true);
  });
  return file;
}

const text: Header = { offset: 0x1000, gpa: 0x1000000, fileBytes: 0x2345, memoryBytes: 0x4000 };
const data: Header = { offset: 0x4010, gpa: 0x1005010, fileBytes: 0x1800, memoryBytes: 0x1800 };

test("an ELF is loaded byte for byte", () => {
  // The third is at no offset that pages could be mapped from.
  const segments = [text, data, { ...text, offset: 0x1001, gpa: 0x1007000 }];
  const file = elf(segments);
  const plan = planKernel(reader(file));
  expect(plan).toMatchObject({ format: "elf", entry: 0x1000010, end: 0x100b000 });
  const ram = { gpa: 0, len: 0x100c000, view: new ArrayBuffer(0x100c000) };
  loadSegments(plan, reader(file), new GuestMemory([ram]));
  for (const { gpa, offset, fileBytes } of segments)
    expect(
      Buffer.compare(
        new Uint8Array(ram.view, gpa, fileBytes),
        file.subarray(offset, offset + fileBytes),
      ),
    ).toBe(0);
  expect(new Uint8Array(ram.view, 0x1002345, 100).every((byte) => byte === 0)).toBe(true);
});

test("a file that is no kernel is named", () => {
  const message = "/k/vmlinux is not a kernel: it has neither an ELF nor a bzImage header";
  for (const file of [new Uint8Array(0), new Uint8Array(3), new Uint8Array(5000).fill(0x23)])
    expect(() => planKernel(reader(file))).toThrow(message);
});

test("no value of an ELF header is trusted", () => {
  const bad: [string, Header[]][] = [
    ["outside the file", [{ ...text, offset: 0x7000 }]],
    ["outside the file", [{ ...text, offset: 2 ** 60 }]],
    ["outside the file", [{ ...text, fileBytes: 2 ** 40, memoryBytes: 2 ** 40 }]],
    ["larger in the file", [{ ...text, memoryBytes: 0x10 }]],
    ["not between 1 MiB and 3 GiB", [{ ...text, gpa: 0x9000 }]],
    ["not between 1 MiB and 3 GiB", [{ ...text, gpa: 0xbffff000 }]],
    ["not between 1 MiB and 3 GiB", [{ ...text, gpa: 2 ** 63 }]],
    ["not between 1 MiB and 3 GiB", [{ ...text, memoryBytes: 2 ** 62 }]],
    ["overlaps another", [text, { ...data, gpa: 0x1003fff }]],
    ["nothing to load", [{ ...text, fileBytes: 0, memoryBytes: 0 }]],
    ["in none of its segments", [data]],
  ];
  for (const [message, segments] of bad)
    expect(() => planKernel(reader(elf(segments)))).toThrow(message);
});

test("any single broken byte of the headers is an error or a plan inside the bounds", () => {
  const good = elf([text, data]);
  for (let at = 0; at < 64 + 2 * 56; at += 1)
    for (const flip of [0x01, 0x80, 0xff]) {
      const file = good.slice();
      file[at] = (file[at] ?? 0) ^ flip;
      try {
        for (const segment of planKernel(reader(file)).segments) {
          expect(segment.offset + segment.fileBytes).toBeLessThanOrEqual(file.length);
          expect(segment.gpa + segment.memoryBytes).toBeLessThanOrEqual(3 * 2 ** 30);
        }
      } catch (error) {
        expect(error).toMatchObject({ name: "VmmError", reason: "KERNEL_INVALID" });
      }
    }
});

function bzImage(): Uint8Array {
  const file = new Uint8Array(0x3000).map((_, i) => i * 3);
  const view = new DataView(file.buffer);
  view.setUint8(0x1f1, 3);
  view.setUint8(0x201, 0x6a);
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, 0x20f, true);
  view.setUint8(0x211, 1);
  view.setUint32(0x22c, 0x7fffffff, true);
  view.setUint32(0x230, 0x200000, true);
  view.setUint16(0x236, 0x7f, true);
  view.setUint32(0x238, 2047, true);
  view.setBigUint64(0x258, 0x1000000n, true);
  view.setUint32(0x260, 0x300000, true);
  return file;
}

test("a bzImage is entered at 0x200 of its protected-mode part", () => {
  const plan = planKernel(reader(bzImage()));
  expect(plan).toMatchObject({ format: "bzimage", entry: 0x1000200, end: 0x1300000 });
  expect(plan.segments).toEqual([
    { gpa: 0x1000000, offset: 0x800, fileBytes: 0x2800, memoryBytes: 0x300000 },
  ]);
  expect(plan.setupHeader.length).toBe(0x202 + 0x6a - 0x1f1);
});

test("a bzImage without what the 64-bit protocol needs is refused", () => {
  const cases: [string, (view: DataView) => void][] = [
    ["older than 2.12", (view) => view.setUint16(0x206, 0x20b, true)],
    ["no 64-bit entry", (view) => view.setUint16(0x236, 0x7e, true)],
    ["zImage", (view) => view.setUint8(0x211, 0)],
    ["cut off", (view) => view.setUint8(0x201, 0x10)],
    ["not aligned", (view) => view.setBigUint64(0x258, 0x1000100n, true)],
    ["not aligned", (view) => view.setUint32(0x230, 0, true)],
    ["not between", (view) => view.setUint32(0x260, 0xffffffff, true)],
    ["ends before", (view) => view.setUint8(0x1f1, 0x40)],
  ];
  for (const [message, breakIt] of cases) {
    const file = bzImage();
    breakIt(new DataView(file.buffer));
    expect(() => planKernel(reader(file))).toThrow(message);
  }
});
