/**
 * CPUID as the guest sees it: what KVM supports, cut down by the machine's template
 * (cpu-baseline.ts; "host" leaves it whole), then the rules below, in order.
 * A guest sees one socket with one thread per core; a wrong topology costs hundreds
 * of milliseconds of boot. Sources: Intel SDM 2A CPUID, AMD APM 3 appendix E.
 */
import type { CpuTemplate } from "../../proto/vmm.ts";
import { VMM_EXIT } from "../../proto/vmm.ts";
import { baselineOf, missingForBaseline } from "./cpu-baseline.ts";
import { VmmError } from "./errors.ts";

const ENTRY_BYTES = 40;
const SIGNIFICANT_INDEX = 1;

export type CpuidEntry = {
  leaf: number;
  index: number;
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
};

export function decodeCpuid(bytes: Uint8Array): CpuidEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const entries: CpuidEntry[] = [];
  for (let at = 0; at + ENTRY_BYTES <= bytes.length; at += ENTRY_BYTES) {
    const word = (i: number): number => view.getUint32(at + i * 4, true);
    entries.push({
      leaf: word(0),
      index: word(1),
      flags: word(2),
      eax: word(3),
      ebx: word(4),
      ecx: word(5),
      edx: word(6),
    });
  }
  return entries;
}

/** kvm_cpuid_entry2[]. */
export function encodeCpuid(entries: readonly CpuidEntry[]): Uint8Array {
  const words = new Uint32Array((entries.length * ENTRY_BYTES) / 4);
  entries.forEach(({ leaf, index, flags, eax, ebx, ecx, edx }, i) =>
    words.set([leaf, index, flags, eax, ebx, ecx, edx], (i * ENTRY_BYTES) / 4),
  );
  return new Uint8Array(words.buffer);
}

type Vendor = "intel" | "amd";
type Context = { vcpu: number; cpus: number; vendor: Vendor };
type Rule = {
  leaf: number;
  /** Every index of the leaf when absent. */
  index?: number;
  vendor?: Vendor;
  why: string;
  apply: (entry: CpuidEntry, context: Context) => void;
};

const bit = (n: number): number => 2 ** n;
const set = (value: number, mask: number): number => (value | mask) >>> 0;
const clear = (value: number, mask: number): number => (value & ~mask) >>> 0;
const put = (on: boolean, value: number, mask: number): number =>
  on ? set(value, mask) : clear(value, mask);
/** Bits high..low of value replaced by field. */
function field(value: number, high: number, low: number, content: number): number {
  const mask = (2 ** (high - low + 1) - 1) * 2 ** low;
  return set(clear(value, mask), ((content * 2 ** low) & mask) >>> 0);
}
const log2Up = (value: number): number => Math.ceil(Math.log2(value));

/** Bits of an APIC id below the package. */
const packageShift = (cpus: number): number => log2Up(cpus);

const topology = (entry: CpuidEntry, { vcpu, cpus }: Context): void => {
  const core = entry.index === 1;
  entry.flags = SIGNIFICANT_INDEX;
  entry.eax = core ? packageShift(cpus) : 0;
  entry.ebx = entry.index === 0 ? 1 : core ? cpus : 0;
  entry.ecx = entry.index === 0 ? 0x100 : core ? 0x201 : entry.index;
  entry.edx = vcpu;
};

/** EAX[25:14] = ids sharing the cache − 1: its own core for L1 and L2, all for L3. */
const cacheSharing = (entry: CpuidEntry, { cpus }: Context): void => {
  if ((entry.eax & 0x1f) === 0) return;
  const level = (entry.eax >>> 5) & 7;
  entry.eax = field(entry.eax, 25, 14, level >= 3 ? cpus - 1 : 0);
};

const nothing = (entry: CpuidEntry): void => {
  entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
};

const RULES: readonly Rule[] = [
  {
    leaf: 1,
    why: "APIC id, ids per package, 64-byte CLFLUSH; hypervisor; TSC deadline (never in KVM's list, yet always there with the in-kernel APIC); no PDCM; HTT = more than one id",
    apply: (entry, { vcpu, cpus }) => {
      entry.ebx = field(entry.ebx, 31, 24, vcpu);
      entry.ebx = field(entry.ebx, 23, 16, 2 ** log2Up(cpus));
      entry.ebx = field(entry.ebx, 15, 8, 8);
      entry.ecx = clear(set(entry.ecx, bit(31) + bit(24)), bit(15));
      entry.edx = put(cpus > 1, entry.edx, bit(28));
    },
  },
  {
    leaf: 4,
    vendor: "intel",
    why: "cache sharing; cores per package",
    apply: (entry, context) => {
      if ((entry.eax & 0x1f) === 0) return;
      cacheSharing(entry, context);
      entry.eax = field(entry.eax, 31, 26, context.cpus - 1);
    },
  },
  {
    leaf: 6,
    why: "no turbo, no energy-performance bias: their MSRs are not emulated",
    apply: (entry) => {
      entry.eax = clear(entry.eax, bit(1));
      entry.ecx = clear(entry.ecx, bit(3));
    },
  },
  {
    leaf: 7,
    index: 0,
    why: "no WAITPKG: a guest could stall the host CPU with it",
    apply: (entry) => {
      entry.ecx = clear(entry.ecx, bit(5));
    },
  },
  {
    leaf: 7,
    index: 0,
    vendor: "amd",
    why: "KVM emulates ARCH_CAPABILITIES, AMD parts do not have it",
    apply: (entry) => {
      entry.edx = clear(entry.edx, bit(29));
    },
  },
  { leaf: 0xa, why: "no performance counters", apply: nothing },
  { leaf: 0xb, why: "topology: threads, then cores", apply: topology },
  { leaf: 0x1f, why: "topology, as leaf 0xb", apply: topology },
  {
    leaf: 0x80000001,
    vendor: "amd",
    why: "TOPOEXT, so that leaf 0x8000001e is read",
    apply: (entry) => {
      entry.ecx = set(entry.ecx, bit(22));
    },
  },
  {
    leaf: 0x80000008,
    vendor: "amd",
    why: "threads − 1 and the width of the core id",
    apply: (entry, { cpus }) => {
      entry.ecx = field(field(entry.ecx, 7, 0, cpus - 1), 15, 12, packageShift(cpus));
    },
  },
  { leaf: 0x8000001d, vendor: "amd", why: "cache sharing", apply: cacheSharing },
  {
    leaf: 0x8000001e,
    vendor: "amd",
    why: "APIC id, core id, one thread per core, one node",
    apply: (entry, { vcpu }) => {
      entry.eax = vcpu;
      entry.ebx = vcpu;
      entry.ecx = 0;
    },
  },
  { leaf: 0x80000026, why: "no second topology leaf of the host's", apply: nothing },
];

function vendorOf(entries: readonly CpuidEntry[]): Vendor {
  const ebx = entries.find((entry) => entry.leaf === 0)?.ebx;
  // "Auth" of AuthenticAMD, "Hygo" of HygonGenuine.
  return ebx === 0x68747541 || ebx === 0x6f677948 ? "amd" : "intel";
}

/** KVM stopped returning the subleaves of the topology leaves: both are put in by hand. */
function withTopologyLeaves(entries: readonly CpuidEntry[]): CpuidEntry[] {
  const present = new Set(entries.map((entry) => entry.leaf));
  const kept = entries.filter((entry) => entry.leaf !== 0xb && entry.leaf !== 0x1f);
  for (const leaf of [0xb, 0x1f])
    if (present.has(leaf))
      for (const index of [0, 1, 2])
        kept.push({ leaf, index, flags: SIGNIFICANT_INDEX, eax: 0, ebx: 0, ecx: 0, edx: 0 });
  return kept;
}

/** Throws CONFIG_INVALID when this host has not all that the template promises. */
export function applyTemplate(
  supported: readonly CpuidEntry[],
  template: CpuTemplate,
): readonly CpuidEntry[] {
  if (template === "host") return supported;
  const missing = missingForBaseline(supported);
  if (missing.length === 0) return baselineOf(supported);
  throw new VmmError(
    "CONFIG_INVALID",
    VMM_EXIT.specInvalid,
    `This host's CPU cannot run a machine of the CPU template "${template}": it lacks ${missing.join(", ")}`,
  );
}

/** The entries of vCPU `vcpu` (= its APIC id) of `cpus`. */
export function cpuidFor(offered: readonly CpuidEntry[], vcpu: number, cpus: number): CpuidEntry[] {
  const context: Context = { vcpu, cpus, vendor: vendorOf(offered) };
  const entries = withTopologyLeaves(offered).map((entry) => ({ ...entry }));
  for (const rule of RULES)
    for (const entry of entries)
      if (
        entry.leaf === rule.leaf &&
        (rule.index === undefined || entry.index === rule.index) &&
        (rule.vendor === undefined || rule.vendor === context.vendor)
      )
        rule.apply(entry, context);
  return entries;
}
