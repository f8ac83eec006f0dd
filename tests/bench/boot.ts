/**
 * `bench boot`: how long from the start of the VMM process to the first message of
 * the guest's init, against QEMU's microvm, and what a machine costs in memory.
 *
 * With LEVERET_DEV_KERNEL it prints `boot_direct`. in-lab.ts runs it inside the lab
 * with the guest's own kernel:
 *   bun tests/bench/main.ts boot --figure boot --kernel FILE --initrd FILE --rounds 5
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { TemporaryDirectory, writePlainInitrd, DEV_KERNEL_ARGS } from "../vm/kit.ts";
import { bootOurs, bootQemu, type BootInput, qemuCpu } from "./boot-sides.ts";
import { measureIdle } from "./boot-memory.ts";
import { type Figure, makeFigure } from "./report.ts";

export type BootOptions = {
  signal: AbortSignal;
  figure: string;
  kernelPath: string;
  /** Null = an initramfs with init alone is made. */
  initrdPath: string | null;
  kernelArgs: string;
  memoryMib: number;
  rounds: number;
  timeoutMs: number;
  /** Machines at once for `idle_private_mib`; empty = not measured. */
  idleCounts: readonly number[];
};

export const BOOT_USAGE = `boot [--figure NAME] [--kernel FILE] [--initrd FILE] [--kernel-args TEXT]
       [--memory MIB] [--rounds N] [--timeout SECONDS] [--no-idle]`;

/** Throws an Error that says what to set when there is no kernel. */
export function parseBootOptions(args: string[], signal: AbortSignal): BootOptions {
  const { values } = parseArgs({
    args,
    options: {
      figure: { type: "string" },
      kernel: { type: "string" },
      initrd: { type: "string" },
      "kernel-args": { type: "string" },
      memory: { type: "string", default: "128" },
      rounds: { type: "string" },
      timeout: { type: "string", default: "300" },
      "no-idle": { type: "boolean", default: false },
    },
  });
  const development = process.env["LEVERET_DEV_KERNEL"];
  const kernelPath = values.kernel ?? development;
  if (kernelPath === undefined || kernelPath === "")
    throw new Error("Set LEVERET_DEV_KERNEL, or name a kernel with --kernel and --initrd");
  const isDevelopment = kernelPath === development;
  return {
    signal,
    figure: values.figure ?? (isDevelopment ? "boot_direct" : "boot"),
    kernelPath,
    initrdPath: values.initrd ?? null,
    kernelArgs: values["kernel-args"] ?? (isDevelopment ? DEV_KERNEL_ARGS : ""),
    memoryMib: Number(values.memory),
    rounds: Number(values.rounds ?? (isDevelopment ? 20 : 5)),
    timeoutMs: Number(values.timeout) * 1_000,
    idleCounts: values["no-idle"] ? [] : [1, 10],
  };
}

/** Progress goes to `say`. */
export async function benchBoot(
  options: BootOptions,
  say: (line: string) => void,
): Promise<Figure[]> {
  if (!existsSync("/dev/kvm")) throw new Error("There is no /dev/kvm");
  using temporary = new TemporaryDirectory();
  const input: BootInput = {
    ...options,
    isStock: options.initrdPath !== null,
    initrdPath: options.initrdPath ?? writePlainInitrd(join(temporary.path, "initrd")),
    directory: temporary.path,
  };
  const cpu = await qemuCpu(input);
  say(`QEMU with its ${cpu === null ? "default CPU (it cannot have the host's)" : "host CPU"}`);
  // Page cache and code warm on both sides; a QEMU that took the host's CPU has booted once.
  await bootOurs(input);
  if (cpu === null) await bootQemu(input, cpu);
  const ours: number[] = [];
  const peer: number[] = [];
  for (let round = 1; round <= options.rounds; round += 1) {
    ours.push(await bootOurs(input));
    peer.push(await bootQemu(input, cpu));
    const [mine = 0, theirs = 0] = [ours.at(-1), peer.at(-1)];
    say(`round ${round}: ours ${mine.toFixed(1)} ms, QEMU ${theirs.toFixed(1)} ms`);
  }
  const names = { bench: "boot", figure: options.figure, unit: "ms" };
  const figures = [makeFigure(names, ours, peer)];
  for (const count of options.idleCounts) figures.push(await idleFigure(input, count, say));
  return figures;
}

async function idleFigure(
  input: BootInput,
  count: number,
  say: (line: string) => void,
): Promise<Figure> {
  const perMachine = await measureIdle(input, count);
  say(`${count} machines idle: ${perMachine.map((mib) => mib.toFixed(2)).join(" ")} MiB`);
  const figure = count === 1 ? "idle_private_mib" : `idle_private_mib_${count}`;
  return makeFigure({ bench: "boot", figure, unit: "MiB" }, perMachine, null);
}
