import { expect, test } from "bun:test";
import { LAYOUT } from "./memory-map.ts";
import { mpTable } from "./mp-table.ts";

const sum = (bytes: Uint8Array): number => bytes.reduce((total, byte) => total + byte, 0) & 0xff;

test("the pointer and the table carry right checksums, lengths and addresses", () => {
  for (const cpus of [1, 8]) {
    const bytes = mpTable(LAYOUT.mpTable, cpus);
    const view = new DataView(bytes.buffer);
    expect(Buffer.from(bytes.subarray(0, 4)).toString()).toBe("_MP_");
    expect(sum(bytes.subarray(0, 16))).toBe(0);
    expect(view.getUint32(4, true)).toBe(LAYOUT.mpTable + 16);
    expect(sum(bytes.subarray(16))).toBe(0);
    expect(view.getUint16(16 + 4, true)).toBe(bytes.length - 16);
    expect(view.getUint16(16 + 34, true)).toBe(cpus + 1 + 1 + 16 + 2);
    expect(LAYOUT.mpTable + bytes.length).toBeLessThanOrEqual(LAYOUT.acpiTables);
  }
});

test("its entries add up to the table", () => {
  const bytes = mpTable(LAYOUT.mpTable, 3);
  let at = 16 + 44;
  const types: number[] = [];
  while (at < bytes.length) {
    const type = bytes[at] ?? 99;
    types.push(type);
    at += type === 0 ? 20 : 8;
  }
  expect(at).toBe(bytes.length);
  expect(types).toEqual([0, 0, 0, 1, 2, ...Array.from({ length: 16 }, () => 3), 4, 4]);
});
