import { expect, test } from "bun:test";
import { moduleName, parseDepends, readModinfo, resolveModules } from "./modinfo.ts";

/** A relocatable ELF with the sections named: enough to be a module for us. */
function elfWith(sections: { name: string; data: Buffer }[]): Buffer {
  const strings = Buffer.from(`\0${[...sections.map((s) => s.name), ".shstrtab"].join("\0")}\0`);
  const all = [
    { name: "", data: Buffer.alloc(0) },
    ...sections,
    { name: ".shstrtab", data: strings },
  ];
  const bodies = Buffer.concat(all.map((section) => section.data));
  const table = 64 + bodies.length;
  const elf = Buffer.alloc(table + all.length * 64);
  elf.writeUInt32BE(0x7f454c46, 0);
  elf.writeBigUInt64LE(BigInt(table), 40);
  elf.writeUInt16LE(64, 58);
  elf.writeUInt16LE(all.length, 60);
  elf.writeUInt16LE(all.length - 1, 62);
  bodies.copy(elf, 64);
  let offset = 64;
  all.forEach(({ name, data }, index) => {
    const at = table + index * 64;
    elf.writeUInt32LE(name === "" ? 0 : strings.indexOf(`${name}\0`), at);
    elf.writeBigUInt64LE(BigInt(offset), at + 24);
    elf.writeBigUInt64LE(BigInt(data.length), at + 32);
    offset += data.length;
  });
  return elf;
}

const info = (text: string): Buffer =>
  elfWith([
    { name: ".text", data: Buffer.from("depends=wrong\0") },
    { name: ".modinfo", data: Buffer.from(text) },
  ]);

test("depends comes out of the section .modinfo and no other", () => {
  const pairs = readModinfo(info("license=GPL\0depends=virtio,virtio-ring\0name=x\0"), "x.ko");
  expect(pairs.get("license")).toBe("GPL");
  expect(parseDepends(pairs)).toEqual(["virtio", "virtio_ring"]);
  expect(parseDepends(readModinfo(info("depends=\0"), "x.ko"))).toEqual([]);
  expect(parseDepends(readModinfo(info("license=GPL\0"), "x.ko"))).toEqual([]);
});

test("what is not a module is refused by its name", () => {
  expect(() => readModinfo(Buffer.from("no"), "k/x.ko")).toThrow("k/x.ko is not a kernel module");
  const none = elfWith([{ name: ".text", data: Buffer.alloc(4) }]);
  expect(() => readModinfo(none, "x.ko")).toThrow("it has no section .modinfo");
  const far = info("depends=\0");
  far.writeBigUInt64LE(1n << 40n, 40);
  expect(() => readModinfo(far, "x.ko")).toThrow("its section table lies outside the file");
});

test("a module's name is its file's, with - as _", () => {
  expect(moduleName("kernel/drivers/char/hw_random/virtio-rng.ko")).toBe("virtio_rng");
  expect(moduleName("a/overlay.ko.xz")).toBe("overlay");
});

test("dependencies come first and once, and what is built in is left out", () => {
  const needs: Record<string, string[]> = { a: ["b", "c"], b: ["c"], c: [], d: ["built", "c"] };
  const files = new Map(Object.keys(needs).map((name) => [name, name]));
  const depends = (path: string): string[] => needs[path] ?? [];
  const resolve = (...wanted: string[]): string[] =>
    resolveModules(wanted, files, new Set(["built"]), depends);
  expect(resolve("a", "d")).toEqual(["c", "b", "a", "d"]);
  expect(resolve("d", "a", "d")).toEqual(["c", "d", "b", "a"]);
  expect(resolve("built")).toEqual([]);
  expect(() => resolve("gone")).toThrow("The kernel has no module gone, needed by the guest");
  needs["a"] = ["gone"];
  expect(() => resolve("a")).toThrow("The kernel has no module gone, needed by a");
});

test("modules that depend on each other do not loop", () => {
  const needs: Record<string, string[]> = { a: ["b"], b: ["a"] };
  const files = new Map([
    ["a", "a"],
    ["b", "b"],
  ]);
  expect(resolveModules(["a"], files, new Set(), (path) => needs[path] ?? [])).toEqual(["b", "a"]);
});
