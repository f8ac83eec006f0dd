/**
 * `bench vmm`: the VMM beside QEMU's microvm, turn by turn, on the same guest, kernel
 * and disk (vmm-sides.ts); what an idle machine costs; how soon a guest is entered
 * (vmm-start.ts). Figures measured on this host's /dev/kvm with LEVERET_DEV_KERNEL end
 * in _direct. Those of the lab do not: there the same script runs with Debian's kernel,
 *   bun tests/bench/main.ts vmm --parts blk,exits --kernel FILE --initrd FILE
 *
 * Rates are better when ours / peer is above 1, times and exits when it is below.
 */
import { chmodSync, existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { allowSharedHugePages } from "../../agent/runtime/shared-huge-pages.ts";
import { DEV_KERNEL_ARGS, TemporaryDirectory, writePlainInitrd } from "../vm/kit.ts";
import { type BootInput, qemuCpu } from "./boot-sides.ts";
import { benchInLab } from "./in-lab.ts";
import type { Figure } from "./report.ts";
import { writeBenchInitrd } from "./vmm-guest.ts";
import { type Context, MEASURES, type Part } from "./vmm-measures.ts";

export const VMM_USAGE = `vmm [--parts boot,blk,tap,user,exits,idle,start,lab] [--rounds N]
       [--kernel FILE --initrd FILE]   (direct: all but the lab's; parts of the lab: lab-boot,lab-blk,lab-tap,lab-user,lab-exits)`;

/** Measured here. */
const HERE: readonly Part[] = ["boot", "blk", "tap", "user", "exits", "idle", "start"];
/** Measured in the lab: what has a peer. */
const IN_LAB: readonly Part[] = ["boot", "blk", "tap", "user", "exits"];
const LAB = "lab";
const DIRECT = "direct";

const TIMEOUT_MS = 60_000;
/** A kernel that boots in 0.3 s here takes 7 s where the processor is emulated. */
const STOCK_TIMEOUT_MS = 300_000;
const DATA_MIB = 256;
const STOCK_DATA_MIB = 64;

type Say = (line: string) => void;

export async function benchVmm(args: string[], say: Say, signal: AbortSignal): Promise<Figure[]> {
  const { values } = parseArgs({
    args,
    options: {
      parts: { type: "string", default: [...HERE, LAB].join(",") },
      rounds: { type: "string", default: "5" },
      kernel: { type: "string" },
      initrd: { type: "string" },
    },
  });
  const wanted = values.parts.split(",");
  const inLab = IN_LAB.filter((part) => wanted.includes(LAB) || wanted.includes(`${LAB}-${part}`));
  const here = HERE.filter((part) => wanted.includes(DIRECT) || wanted.includes(part));
  const known = [...HERE, DIRECT, LAB, ...IN_LAB.map((part) => `${LAB}-${part}`)];
  const unknown = wanted.filter((name) => !known.includes(name));
  if (unknown.length > 0) throw new Error(`No such part: ${unknown.join(", ")}\n${VMM_USAGE}`);
  const figures: Figure[] = [];
  if (inLab.length > 0) {
    const parts = `--parts=${inLab.join(",")}`;
    figures.push(...(await benchInLab(["vmm", parts, `--rounds=${values.rounds}`], say, signal)));
  }
  if (here.length === 0) return figures;
  const kernel = chooseKernel(values.kernel, values.initrd);
  if (kernel.kernelPath === "" || !existsSync("/dev/kvm")) {
    say(`left out: ${here.join(", ")}: LEVERET_DEV_KERNEL is not set, or there is no /dev/kvm`);
    return figures;
  }
  // As an agent has it done.
  allowSharedHugePages();
  using temporary = new TemporaryDirectory();
  // Machines in jails have users of their own.
  chmodSync(temporary.path, 0o755);
  const context = await makeContext(temporary.path, kernel, Number(values.rounds), say, signal);
  for (const part of here) figures.push(...(await MEASURES[part](context)));
  return figures;
}

/** `packagePath`: a stock kernel's initramfs; null with the development kernel, which needs none. */
type Kernel = { kernelPath: string; packagePath: string | null };

function chooseKernel(kernel: string | undefined, initrd: string | undefined): Kernel {
  if (kernel === undefined)
    return { kernelPath: process.env["LEVERET_DEV_KERNEL"] ?? "", packagePath: null };
  if (initrd === undefined) throw new Error("--kernel needs --initrd, its package's initramfs");
  return { kernelPath: kernel, packagePath: initrd };
}

async function makeContext(
  directory: string,
  { kernelPath, packagePath }: Kernel,
  rounds: number,
  say: Say,
  signal: AbortSignal,
): Promise<Context> {
  const isStock = packagePath !== null;
  const common = {
    kernelPath,
    isStock,
    kernelArgs: isStock ? "" : DEV_KERNEL_ARGS,
    directory,
    timeoutMs: isStock ? STOCK_TIMEOUT_MS : TIMEOUT_MS,
    signal,
  };
  const plain = packagePath ?? writePlainInitrd(join(directory, "init"));
  const boot: BootInput = { ...common, memoryMib: 128, initrdPath: plain };
  const initrdPath = writeBenchInitrd(join(directory, "tools-init"), packagePath);
  const work: BootInput = { ...common, memoryMib: 256, initrdPath };
  const cpu = await qemuCpu(boot);
  say(`QEMU with its ${cpu === null ? "default CPU (it cannot have the host's)" : "host CPU"}`);
  return {
    boot,
    work,
    directory,
    cpu,
    rounds,
    say,
    dataMib: isStock ? STOCK_DATA_MIB : DATA_MIB,
    suffix: isStock ? "" : "_direct",
  };
}
