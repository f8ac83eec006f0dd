import { expect, test } from "bun:test";
import { type CpuidEntry, cpuidFor, decodeCpuid, encodeCpuid } from "./cpuid.ts";

const entry = (leaf: number, index: number, words: Partial<CpuidEntry> = {}): CpuidEntry => ({
  leaf,
  index,
  flags: 0,
  eax: 0,
  ebx: 0,
  ecx: 0,
  edx: 0,
  ...words,
});

const intel = entry(0, 0, { eax: 0x16, ebx: 0x756e6547, ecx: 0x6c65746e, edx: 0x49656e69 });
const amd = entry(0, 0, { eax: 0x10, ebx: 0x68747541, ecx: 0x444d4163, edx: 0x69746e65 });
const rest = [
  entry(1, 0, { ebx: 0xffffffff, ecx: 1 << 15, edx: 0x0f8bfbff }),
  entry(4, 0, { flags: 1, eax: 0x1c004121 }),
  entry(4, 3, { flags: 1, eax: 0x1c03c163 }),
  entry(4, 4, { flags: 1 }),
  entry(6, 0, { eax: 0xffffffff, ecx: 0xffffffff }),
  entry(7, 0, { flags: 1, ecx: 0xffffffff, edx: 0xffffffff }),
  entry(7, 1, { flags: 1, eax: 0xffffffff, ecx: 0xffffffff, edx: 0xffffffff }),
  entry(0xa, 0, { eax: 0x07300404, ebx: 1, ecx: 2, edx: 0x603 }),
  entry(0xb, 0, { flags: 1, edx: 99 }),
  entry(0x40000001, 0, { eax: 0x01007efb }),
  entry(0x80000001, 0, { ecx: 0x121 }),
  entry(0x80000008, 0, { eax: 0x3030, ecx: 0xffffffff }),
  entry(0x8000001e, 0, { eax: 77, ebx: 0xffffffff, ecx: 0x700 }),
];

function pick(entries: readonly CpuidEntry[], leaf: number, index = 0): CpuidEntry {
  const found = entries.find((it) => it.leaf === leaf && it.index === index);
  if (found === undefined) throw new Error(`no leaf 0x${leaf.toString(16)}.${index}`);
  return found;
}

test("entries survive encoding, 40 bytes each", () => {
  const entries = [intel, ...rest];
  const bytes = encodeCpuid(entries);
  expect(bytes.length).toBe(40 * entries.length);
  expect(decodeCpuid(bytes)).toEqual(entries);
});

test("leaf 1 carries the APIC id, the hypervisor bit and TSC deadline", () => {
  const leaf = pick(cpuidFor([intel, ...rest], 5, 6), 1);
  expect(leaf.ebx >>> 24).toBe(5);
  expect((leaf.ebx >>> 16) & 0xff).toBe(8);
  expect((leaf.ebx >>> 8) & 0xff).toBe(8);
  expect(leaf.ecx).toBe(2 ** 31 + 2 ** 24);
  expect((leaf.edx >>> 28) & 1).toBe(1);
  expect((pick(cpuidFor([intel, ...rest], 0, 1), 1).edx >>> 28) & 1).toBe(0);
});

test("the topology leaf has a thread, a core and an end level for every vCPU", () => {
  for (const cpus of [1, 2, 3, 8])
    for (let vcpu = 0; vcpu < cpus; vcpu += 1) {
      const entries = cpuidFor([intel, ...rest], vcpu, cpus);
      const levels = entries.filter((it) => it.leaf === 0xb);
      expect(levels.map((it) => [it.index, it.flags, it.ecx, it.edx])).toEqual([
        [0, 1, 0x100, vcpu],
        [1, 1, 0x201, vcpu],
        [2, 1, 2, vcpu],
      ]);
      expect(levels.map((it) => it.ebx)).toEqual([1, cpus, 0]);
      expect(2 ** (levels[1]?.eax ?? 0)).toBeGreaterThanOrEqual(cpus);
    }
  expect(cpuidFor([intel, ...rest], 0, 1).some((it) => it.leaf === 0x1f)).toBe(false);
});

test("caches: L1 belongs to a core, L3 to all; the terminating entry stays zero", () => {
  const entries = cpuidFor([intel, ...rest], 0, 4);
  expect((pick(entries, 4, 0).eax >>> 14) & 0xfff).toBe(0);
  expect((pick(entries, 4, 3).eax >>> 14) & 0xfff).toBe(3);
  expect(pick(entries, 4, 0).eax >>> 26).toBe(3);
  expect(pick(entries, 4, 4).eax).toBe(0);
});

test("what is not emulated is not offered", () => {
  const entries = cpuidFor([intel, ...rest], 0, 2);
  expect(pick(entries, 6).eax & 2).toBe(0);
  expect(pick(entries, 6).ecx & 8).toBe(0);
  expect(pick(entries, 7, 0).ecx & 0x20).toBe(0);
  expect(pick(entries, 7, 1).ecx).toBe(0xffffffff);
  expect(pick(entries, 0xa)).toMatchObject({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  expect(pick(entries, 0x40000001).eax).toBe(0x01007efb);
});

test("vendor rules apply to their vendor only, and the input is not changed", () => {
  const copy = structuredClone(rest);
  const onAmd = cpuidFor([amd, ...rest], 2, 4);
  const onIntel = cpuidFor([intel, ...rest], 2, 4);
  expect((pick(onAmd, 7).edx >>> 29) & 1).toBe(0);
  expect((pick(onIntel, 7).edx >>> 29) & 1).toBe(1);
  expect((pick(onAmd, 0x80000001).ecx >>> 22) & 1).toBe(1);
  expect(pick(onAmd, 0x80000008).ecx & 0xf0ff).toBe(0x2003);
  expect(pick(onAmd, 0x8000001e)).toMatchObject({ eax: 2, ebx: 2, ecx: 0 });
  expect(pick(onIntel, 0x8000001e).eax).toBe(77);
  expect(pick(onAmd, 4, 3).eax).toBe(0x1c03c163);
  expect(rest).toEqual(copy);
});
