/**
 * `bench vmm`: the VMM beside QEMU's microvm, turn by turn, on the same guest, kernel
 * and disk (vmm-sides.ts); what an idle machine costs; how soon a guest is entered
 * (vmm-start.ts). Names of figures measured on this host's /dev/kvm with
 * LEVERET_DEV_KERNEL end in _direct; the boot in the lab is `boot`.
 *
 * Rates are better when ours / peer is above 1, times and exits when it is below.
 */
import { chmodSync, existsSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cacheDir } from "../../cli/paths.ts";
import { DEV_KERNEL_ARGS, TemporaryDirectory, writePlainInitrd } from "../vm/kit.ts";
import { benchBootInLab } from "./boot-lab.ts";
import { measureIdle } from "./boot-memory.ts";
import { bootOurs, bootQemu, type BootInput, qemuCpu } from "./boot-sides.ts";
import { type Figure, makeFigure } from "./report.ts";
import { ExitCounter, whyNoExits } from "./vmm-exits.ts";
import { checkTools, type Job, toolsImage, writeBenchInitrd } from "./vmm-guest.ts";
import { openPasst, openTap, serveIperf } from "./vmm-net.ts";
import { type Outcome, runWorkload, type Side, type Workload } from "./vmm-sides.ts";
import { Starter } from "./vmm-start.ts";

export const VMM_USAGE = "vmm [--parts boot,blk,tap,user,exits,idle,start,lab] [--rounds N]";

/** Measured here, with the development kernel. */
const DIRECT = ["boot", "blk", "tap", "user", "exits", "idle", "start"] as const;
const PARTS: readonly string[] = [...DIRECT, "lab"];

const LAB_ROUNDS = 5;
const IDLE_MACHINES = 20;
const START_ROUNDS = 20;
const DATA_MIB = 256;
const TIMEOUT_MS = 60_000;

type Say = (line: string) => void;
type Context = {
  /** With leveret's init. */
  boot: BootInput;
  /** With the tools' init. */
  work: BootInput;
  directory: string;
  cpu: string | null;
  rounds: number;
  say: Say;
};

export async function benchVmm(args: string[], say: Say): Promise<Figure[]> {
  const { values } = parseArgs({
    args,
    options: {
      parts: { type: "string", default: PARTS.join(",") },
      rounds: { type: "string", default: "5" },
    },
  });
  const wanted = values.parts.split(",");
  const unknown = wanted.filter((name) => !PARTS.includes(name));
  if (unknown.length > 0) throw new Error(`No such part: ${unknown.join(", ")}\n${VMM_USAGE}`);
  const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";
  const figures: Figure[] = [];
  if (wanted.includes("lab")) figures.push(...(await benchBootInLab(LAB_ROUNDS, say)));
  const here = DIRECT.filter((part) => wanted.includes(part));
  if (here.length === 0) return figures;
  if (kernelPath === "" || !existsSync("/dev/kvm")) {
    say(`left out: ${here.join(", ")}: LEVERET_DEV_KERNEL is not set, or there is no /dev/kvm`);
    return figures;
  }
  using temporary = new TemporaryDirectory();
  // Machines in jails have users of their own.
  chmodSync(temporary.path, 0o755);
  const context = await makeContext(temporary.path, kernelPath, Number(values.rounds), say);
  for (const part of here) figures.push(...(await MEASURES[part](context)));
  return figures;
}

const MEASURES: Readonly<Record<(typeof DIRECT)[number], (context: Context) => Promise<Figure[]>>> =
  {
    boot: measureBoot,
    blk: measureBlk,
    tap: (context) => measureNet(context, "tap"),
    user: (context) => measureNet(context, "user"),
    exits: measureExits,
    idle: measureIdleMachines,
    start: measureStart,
  };

async function makeContext(
  directory: string,
  kernelPath: string,
  rounds: number,
  say: Say,
): Promise<Context> {
  const common = { kernelPath, kernelArgs: DEV_KERNEL_ARGS, directory, timeoutMs: TIMEOUT_MS };
  const boot = { ...common, memoryMib: 128, initrdPath: writePlainInitrd(join(directory, "init")) };
  const initrdPath = writeBenchInitrd(join(directory, "tools-init"));
  const work = { ...common, memoryMib: 256, initrdPath };
  const cpu = await qemuCpu(boot);
  say(`QEMU with its ${cpu === null ? "default CPU (it cannot have the host's)" : "host CPU"}`);
  return { boot, work, directory, cpu, rounds, say };
}

/** One run of ours, one of the peer's, and so on; the first of each is thrown away. */
async function takeTurns(
  { rounds, say }: Context,
  what: string,
  run: (side: Side) => Promise<number[]>,
): Promise<Record<Side, number[][]>> {
  const samples: Record<Side, number[][]> = { ours: [], peer: [] };
  for (let round = 0; round <= rounds; round += 1)
    for (const side of ["ours", "peer"] as const) {
      const numbers = await run(side);
      if (round === 0) continue;
      samples[side].push(numbers);
      say(`${what} ${round}: ${side} ${numbers.map((it) => it.toFixed(1)).join(", ")}`);
    }
  return samples;
}

/** The figure of the i-th number of each run. */
function figureOf(figure: string, unit: string, samples: Record<Side, number[][]>, i = 0): Figure {
  const column = (side: Side): number[] => samples[side].map((numbers) => numbers[i] ?? Number.NaN);
  return makeFigure({ bench: "vmm", figure, unit }, column("ours"), column("peer"));
}

async function measureBoot(context: Context): Promise<Figure[]> {
  const { boot, cpu } = context;
  const samples = await takeTurns(context, "boot", async (side) => [
    side === "ours" ? await bootOurs(boot) : await bootQemu(boot, cpu),
  ]);
  return [figureOf("boot_direct", "ms", samples)];
}

/** Throws with the guest's words when a job gave no number. */
function numberOf(outcomes: readonly Outcome[], job: Job, i: number): number {
  const outcome = outcomes.find((it) => it.job === job);
  const number = outcome?.numbers[i];
  if (number === undefined || !(number > 0))
    throw new Error(`${job} failed in the guest: ${outcome?.words ?? "not run"}`);
  return number;
}

function blockWork(directory: string, jobs: readonly Job[]): Workload {
  checkTools();
  const data = join(directory, "data");
  if (!existsSync(data)) {
    const argv = ["dd", "if=/dev/urandom", `of=${data}`, "bs=1M", `count=${DATA_MIB}`];
    if (Bun.spawnSync(argv).exitCode !== 0) throw new Error(`Cannot write ${data}`);
  }
  return { jobs, disks: [toolsImage(cacheDir()), data], network: null, port: 0 };
}

async function measureBlk(context: Context): Promise<Figure[]> {
  const work = blockWork(context.directory, ["randread", "seqread"]);
  const samples = await takeTurns(context, "blk", async (side) => {
    const outcomes = await runWorkload(side, context.work, work, context.cpu);
    return [numberOf(outcomes, "randread", 2), numberOf(outcomes, "seqread", 1) / 1_024];
  });
  return [
    figureOf("blk_randread_4k_direct", "requests/s", samples),
    figureOf("blk_seq_read_direct", "MiB/s", samples, 1),
  ];
}

async function measureNet(context: Context, kind: "tap" | "user"): Promise<Figure[]> {
  const work = blockWork(context.directory, ["send", "receive"]);
  await using tap = kind === "tap" ? openTap() : null;
  await using server = await serveIperf(tap?.network.host ?? "127.0.0.1");
  const samples = await takeTurns(context, `net_${kind}`, async (side) => {
    await using passt = tap === null ? await openPasst(context.directory) : null;
    const network = tap?.network ?? passt?.network ?? null;
    const one = { ...work, network, port: server.port };
    const outcomes = await runWorkload(side, context.work, one, context.cpu);
    return [numberOf(outcomes, "send", 0), numberOf(outcomes, "receive", 0)];
  });
  return [
    figureOf(`net_${kind}_direct`, "Mbit/s", samples),
    figureOf(`net_${kind}_receive_direct`, "Mbit/s", samples, 1),
  ];
}

/** Fewer rounds: counts hardly differ. */
async function measureExits(context: Context): Promise<Figure[]> {
  const missing = whyNoExits();
  if (missing !== "") {
    context.say(`exits left out: ${missing}`);
    return [];
  }
  const { boot, cpu, directory } = context;
  const few = { ...context, rounds: Math.min(context.rounds, 3) };
  const boots = await takeTurns(few, "exits of a boot", async (side) => {
    using counter = new ExitCounter(directory);
    await (side === "ours" ? bootOurs(boot, counter) : bootQemu(boot, cpu, counter));
    return [counter.read()];
  });
  const work = blockWork(directory, ["randread"]);
  const requests = await takeTurns(few, "exits of a request", async (side) => {
    using counter = new ExitCounter(directory);
    const outcomes = await runWorkload(side, context.work, work, cpu, counter);
    // KiB of 4 KiB requests.
    return [counter.read() / (numberOf(outcomes, "randread", 0) / 4)];
  });
  return [
    figureOf("exits_per_boot_direct", "exits", boots),
    figureOf("exits_per_request_direct", "exits", requests),
  ];
}

async function measureIdleMachines({ boot, say }: Context): Promise<Figure[]> {
  const each = await measureIdle(boot, IDLE_MACHINES);
  say(`${IDLE_MACHINES} machines idle: ${each.map((mib) => mib.toFixed(2)).join(" ")} MiB`);
  return [makeFigure({ bench: "vmm", figure: "idle_private_mib", unit: "MiB" }, each, null)];
}

async function measureStart({ boot, say }: Context): Promise<Figure[]> {
  using starter = new Starter(boot);
  const figures: Figure[] = [];
  for (const side of ["cold", "pool"] as const) {
    const times: number[] = [];
    for (let round = 0; round <= START_ROUNDS; round += 1) {
      const ms = await starter.time(side);
      if (round > 0) times.push(ms);
    }
    say(`${side}: ${times.map((ms) => ms.toFixed(1)).join(" ")} ms`);
    const names = { bench: "vmm", figure: `start_to_entry_${side}_ms`, unit: "ms" };
    figures.push(makeFigure(names, times, null));
  }
  return figures;
}
