/**
 * The CPU template "baseline": x86-64-v3 and what every server since Intel Broadwell and
 * AMD Zen has besides, whatever else the host could do. What a guest found at its first
 * boot it finds on every other host of the fleet, so that its snapshot can go there.
 *
 * `need` are there or the machine is refused; `may` differ from host to host and do no
 * harm when they do (KVM emulates them, or they are mitigations that are only asked for
 * where the processor has them); nothing else of a feature word comes through. Leaves
 * that are not named below do not exist. Vendor, family and cache sizes are the host's:
 * a snapshot stays with one vendor in any case.
 */
import type { CpuidEntry } from "./cpuid.ts";

type Register = "eax" | "ebx" | "ecx" | "edx";
type Bits = Record<string, number>;
type Word = { leaf: number; index?: number; register: Register; need?: Bits; may?: Bits };

const WORDS: readonly Word[] = [
  {
    leaf: 1,
    register: "ecx",
    need: {
      sse3: 0,
      pclmulqdq: 1,
      ssse3: 9,
      fma: 12,
      cx16: 13,
      sse4_1: 19,
      sse4_2: 20,
      movbe: 22,
      popcnt: 23,
      aes: 25,
      xsave: 26,
      avx: 28,
      f16c: 29,
      rdrand: 30,
    },
    may: { x2apic: 21, tsc_deadline: 24, osxsave: 27, hypervisor: 31 },
  },
  {
    leaf: 1,
    register: "edx",
    need: {
      fpu: 0,
      de: 2,
      pse: 3,
      tsc: 4,
      msr: 5,
      pae: 6,
      mce: 7,
      cx8: 8,
      apic: 9,
      sep: 11,
      mtrr: 12,
      pge: 13,
      mca: 14,
      cmov: 15,
      pat: 16,
      pse36: 17,
      clflush: 19,
      mmx: 23,
      fxsr: 24,
      sse: 25,
      sse2: 26,
    },
    may: { htt: 28 },
  },
  { leaf: 6, register: "eax", may: { arat: 2 } },
  { leaf: 6, register: "ebx" },
  { leaf: 6, register: "ecx" },
  {
    leaf: 7,
    index: 0,
    register: "ebx",
    need: { fsgsbase: 0, bmi1: 3, avx2: 5, smep: 7, bmi2: 8, adx: 19, smap: 20 },
    // Says only that copying by bytes is fast; a lab's is not.
    may: { erms: 9 },
  },
  { leaf: 7, index: 0, register: "ecx" },
  {
    leaf: 7,
    index: 0,
    register: "edx",
    may: { md_clear: 10, spec_ctrl: 26, stibp: 27, ssbd: 31 },
  },
  { leaf: 0xd, index: 1, register: "eax", need: { xsaveopt: 0 } },
  {
    leaf: 0x40000001,
    register: "eax",
    may: {
      clocksource: 0,
      nop_io_delay: 1,
      clocksource2: 3,
      async_pf: 4,
      steal_time: 5,
      pv_eoi: 6,
      pv_unhalt: 7,
      pv_tlb_flush: 9,
      async_pf_vmexit: 10,
      pv_send_ipi: 11,
      poll_control: 12,
      pv_sched_yield: 13,
      async_pf_int: 14,
      clocksource_stable: 24,
    },
  },
  {
    leaf: 0x80000001,
    register: "ecx",
    need: { lahf_lm: 0, abm: 5 },
    may: { topoext: 22 },
  },
  {
    leaf: 0x80000001,
    register: "edx",
    need: { syscall: 11, nx: 20, rdtscp: 27, lm: 29 },
  },
  // An invariant TSC has another frequency elsewhere.
  { leaf: 0x80000007, register: "edx" },
  { leaf: 0x80000008, register: "ebx", may: { ibpb: 12, ibrs: 14, stibp: 15, ssbd: 24 } },
];

const MAX_BASIC = 0xd;
const MAX_EXTENDED = 0x8000001e;
/** Subleaves beyond those of isKept do not come through either. */
const BASIC_LEAVES = [0, 1, 2, 4, 6, 7, 0xb, 0xd];
const KVM_LEAVES = [0x40000000, 0x40000001];
const EXTENDED_LEAVES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x1d, 0x1e].map((leaf) => 0x80000000 + leaf);
const LEAVES: ReadonlySet<number> = new Set([...BASIC_LEAVES, ...KVM_LEAVES, ...EXTENDED_LEAVES]);

/** x87, SSE and AVX state: the legacy area, its header, and the upper halves of 16 registers. */
const XCR0 = 7;
const XSAVE_BYTES = 576 + 256;
/** Of a physical address: what the smallest server of the template has. */
const ADDRESS_BITS = 46;

const mask = (bits: Bits = {}): number =>
  Object.values(bits).reduce((sum, bit) => sum + 2 ** bit, 0) >>> 0;

const isKept = ({ leaf, index }: CpuidEntry): boolean =>
  LEAVES.has(leaf) && (leaf !== 7 || index === 0) && (leaf !== 0xd || index <= 2);

/** What is missing for the template on this host, by name; [] = a baseline machine can run. */
export function missingForBaseline(supported: readonly CpuidEntry[]): string[] {
  return WORDS.flatMap(({ leaf, index = 0, register, need = {} }) => {
    const entry = supported.find((it) => it.leaf === leaf && it.index === index);
    const word = entry?.[register] ?? 0;
    return Object.entries(need)
      .filter(([, bit]) => ((word >>> bit) & 1) === 0)
      .map(([name]) => name);
  });
}

/** New entries; the host's are not changed. */
export function baselineOf(supported: readonly CpuidEntry[]): CpuidEntry[] {
  const entries = supported.filter(isKept).map((entry) => ({ ...entry }));
  for (const entry of entries) {
    const { leaf, index } = entry;
    for (const word of WORDS)
      if (word.leaf === leaf && (word.index ?? 0) === index)
        entry[word.register] = (entry[word.register] & (mask(word.need) | mask(word.may))) >>> 0;
    if (leaf === 0) entry.eax = Math.min(entry.eax, MAX_BASIC);
    if (leaf === 0x80000000) entry.eax = Math.min(entry.eax, MAX_EXTENDED);
    if (leaf === 7) entry.eax = 0;
    if (leaf === 0xd && index === 0)
      Object.assign(entry, { eax: XCR0, ebx: XSAVE_BYTES, ecx: XSAVE_BYTES, edx: 0 });
    if (leaf === 0xd && index === 1) entry.ebx = entry.ecx = entry.edx = 0;
    if (leaf === 0x80000008)
      entry.eax = ((entry.eax & 0xff00) | Math.min(entry.eax & 0xff, ADDRESS_BITS)) >>> 0;
  }
  return entries;
}
