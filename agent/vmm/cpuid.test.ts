import { expect, test } from "bun:test";
import { applyTemplate, type CpuidEntry, cpuidFor, decodeCpuid, encodeCpuid } from "./cpuid.ts";

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

/** As Linux reads it (arch/x86/kernel/cpu/topology_{ext,amd}.c): ids of package, core, thread. */
function topologyOf(entries: readonly CpuidEntry[]): { pkg: number; core: number; thread: number } {
  const threads = pick(entries, 0xb, 0);
  const cores = pick(entries, 0xb, 1);
  expect([(threads.ecx >>> 8) & 0xff, (cores.ecx >>> 8) & 0xff]).toEqual([1, 2]);
  const id = cores.edx;
  return {
    pkg: id >>> cores.eax,
    core: (id & (2 ** cores.eax - 1)) >>> threads.eax,
    thread: id & (2 ** threads.eax - 1),
  };
}

test("any number of vCPUs is one package of as many cores with one thread each", () => {
  const caches = [0, 1, 2, 3].map((index) =>
    entry(0x8000001d, index, { flags: 1, eax: 0x121 + (index === 3 ? 0x40 : 0) }),
  );
  for (const vendor of [intel, amd])
    for (let cpus = 1; cpus <= 32; cpus += 1) {
      const seen = Array.from({ length: cpus }, (_, vcpu) => {
        const entries = cpuidFor([vendor, ...rest, ...caches], vcpu, cpus);
        expect(pick(entries, 1).ebx >>> 24).toBe(vcpu);
        // Ids below the package are enough for all, however a kernel asks for them.
        const perPackage = (pick(entries, 1).ebx >>> 16) & 0xff;
        expect(perPackage).toBeGreaterThanOrEqual(cpus);
        if (vendor === intel) {
          expect(pick(entries, 4, 3).eax >>> 26).toBe(cpus - 1);
          return topologyOf(entries);
        }
        const { ecx } = pick(entries, 0x80000008);
        expect(ecx & 0xff).toBe(cpus - 1);
        expect(2 ** ((ecx >>> 12) & 15)).toBeGreaterThanOrEqual(cpus);
        expect((pick(entries, 0x8000001e).ebx >>> 8) & 0xff).toBe(0);
        expect(pick(entries, 0x8000001e).ebx & 0xff).toBe(vcpu);
        const shared = caches.map(
          (_unused, i) => (pick(entries, 0x8000001d, i).eax >>> 14) & 0xfff,
        );
        expect(shared).toEqual([0, 0, 0, cpus - 1]);
        return topologyOf(entries);
      });
      const all = Array.from({ length: cpus }, (_, core) => ({ pkg: 0, core, thread: 0 }));
      expect(seen).toEqual(all);
    }
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

/** All that a host could have. */
const full = (vendor: CpuidEntry): CpuidEntry[] => {
  const ones = { eax: 0xffffffff, ebx: 0xffffffff, ecx: 0xffffffff, edx: 0xffffffff };
  const leaves: [number, number][] = [
    [1, 0],
    [4, 0],
    [6, 0],
    [7, 0],
    [7, 1],
    [0xa, 0],
    [0xb, 0],
    [0xd, 0],
    [0xd, 1],
    [0xd, 2],
    [0xd, 9],
    [0x1f, 0],
    [0x40000001, 0],
    [0x80000001, 0],
    [0x80000007, 0],
    [0x80000008, 0],
    [0x8000000a, 0],
  ];
  return [{ ...vendor, eax: 0x1f }, ...leaves.map(([leaf, index]) => entry(leaf, index, ones))];
};

test("baseline is the same feature words on a host that has more", () => {
  const rich = full(intel);
  const copy = structuredClone(rich);
  // The same host without AVX-512, AMX, PCID, an invariant TSC and nested virtualisation.
  const poor = rich
    .filter(({ leaf, index }) => leaf !== 0x8000000a && leaf !== 0x1f && index !== 9)
    .map((it) => {
      if (it.leaf === 1) return { ...it, ecx: (it.ecx & ~((1 << 17) | (1 << 5))) >>> 0 };
      if (it.leaf === 7) return { ...it, ebx: 0x1c03a9, ecx: 0 };
      return it.leaf === 0x80000007 ? { ...it, edx: 0 } : it;
    });
  const seen = (host: readonly CpuidEntry[]): CpuidEntry[] =>
    cpuidFor(applyTemplate(host, "baseline"), 1, 2);
  expect(seen(poor)).toEqual(seen(rich));
  expect(rich).toEqual(copy);
  expect(applyTemplate(rich, "host")).toEqual(copy);
  const entries = seen(rich);
  expect(new Set(entries.map(({ leaf }) => leaf))).not.toContain(0x1f);
  expect(pick(entries, 0).eax).toBe(0xd);
  expect(pick(entries, 7).ebx).toBe(0x1803a9);
  expect(pick(entries, 0xd)).toMatchObject({ eax: 7, ebx: 832, ecx: 832, edx: 0 });
  expect(pick(entries, 1).ecx & (1 << 17)).toBe(0);
  // What the rules add stays: hypervisor, TSC deadline, HTT.
  expect(pick(entries, 1).ecx >>> 31).toBe(1);
  expect((pick(entries, 1).edx >>> 28) & 1).toBe(1);
});

test("a host that lacks what baseline promises refuses, by the features' names", () => {
  const without = full(amd).map((it) =>
    it.leaf === 7 && it.index === 0 ? { ...it, ebx: (it.ebx & ~(1 << 5)) >>> 0 } : it,
  );
  expect(() => applyTemplate(without, "baseline")).toThrow(
    expect.objectContaining({
      reason: "CONFIG_INVALID",
      message: expect.stringMatching(/lacks avx2$/),
    }),
  );
  expect(() => applyTemplate([amd], "baseline")).toThrow(/lacks sse3, .*sse4_2.*, lm$/);
  expect(applyTemplate(full(amd), "baseline").length).toBeGreaterThan(10);
});
