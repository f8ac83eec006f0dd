import { expect, test } from "bun:test";
import { e820, E820_RAM, GIB, MIB, ramRanges } from "./memory-map.ts";

test("memory up to 3 GiB is one range, more goes on at 4 GiB", () => {
  expect(ramRanges(3 * GIB)).toEqual([{ start: 0, bytes: 3 * GIB }]);
  expect(ramRanges(3 * GIB + 4096)).toEqual([
    { start: 0, bytes: 3 * GIB },
    { start: 4 * GIB, bytes: 4096 },
  ]);
});

test("the e820 map has all RAM but the legacy hole, sorted and without overlap", () => {
  for (const bytes of [64 * MIB, 3 * GIB, 5 * GIB, 64 * GIB]) {
    const entries = e820(bytes);
    const ram = entries.filter((entry) => entry.type === E820_RAM);
    const legacyHole = MIB - 0x9fc00;
    expect(ram.reduce((sum, entry) => sum + entry.bytes, 0)).toBe(bytes - legacyHole);
    entries.reduce((end, entry) => {
      expect(entry.start).toBeGreaterThanOrEqual(end);
      return entry.start + entry.bytes;
    }, 0);
  }
});
