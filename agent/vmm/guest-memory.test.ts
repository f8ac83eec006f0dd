import { expect, test } from "bun:test";
import { GuestMemory } from "./guest-memory.ts";

const low = { gpa: 0, len: 0x2000, view: new ArrayBuffer(0x2000) };
const next = { gpa: 0x2000, len: 0x1000, view: new ArrayBuffer(0x1000) };
const high = { gpa: 0x10000, len: 0x1000, view: new ArrayBuffer(0x1000) };
const memory = new GuestMemory([low, next, high]);

test("a write over the border of two windows reaches both", () => {
  memory.write(0x1ffe, Uint8Array.of(1, 2, 3, 4));
  expect([...new Uint8Array(low.view, 0x1ffe)]).toEqual([1, 2]);
  expect([...new Uint8Array(next.view, 0, 3)]).toEqual([3, 4, 0]);
});

test("what is not RAM is refused whole", () => {
  for (const gpa of [-1, 0x2fff, 0x3000, 0xffff, 0x10fff, 2 ** 53]) {
    expect(() => memory.pieces(gpa, 2)).toThrow(RangeError);
    expect(memory.contains(gpa, 2)).toBe(false);
  }
  expect(memory.contains(0x10ffe, 2)).toBe(true);
  expect(memory.contains(0, 0x3000)).toBe(true);
  expect(memory.contains(0, 0x3001)).toBe(false);
});
