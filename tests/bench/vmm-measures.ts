/** What `bench vmm` measures, part by part. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "../../cli/paths.ts";
import { measureIdle } from "./boot-memory.ts";
import { PoolBoots } from "./boot-pool.ts";
import { bootOurs, bootQemu, type BootInput } from "./boot-sides.ts";
import { type Figure, makeFigure } from "./report.ts";
import { ExitCounter, whyNoExits } from "./vmm-exits.ts";
import { checkTools, type Job, toolsImage } from "./vmm-guest.ts";
import { openPasst, openTap, serveIperf } from "./vmm-net.ts";
import { type Outcome, runWorkload, type Side, type Workload } from "./vmm-sides.ts";
import { Starter } from "./vmm-start.ts";

const IDLE_MACHINES = 20;
const START_ROUNDS = 20;

export type Part = "boot" | "blk" | "tap" | "user" | "exits" | "idle" | "start";

export type Context = {
  /** With leveret's init. */
  boot: BootInput;
  /** With the tools' init. */
  work: BootInput;
  directory: string;
  cpu: string | null;
  rounds: number;
  /** Of the disk that is read. */
  dataMib: number;
  /** Of the figures' names. */
  suffix: string;
  say: (line: string) => void;
};

export const MEASURES: Readonly<Record<Part, (context: Context) => Promise<Figure[]>>> = {
  boot: measureBoot,
  blk: measureBlk,
  tap: (context) => measureNet(context, "tap"),
  user: (context) => measureNet(context, "user"),
  exits: measureExits,
  idle: measureIdleMachines,
  start: measureStart,
};

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

/** As agents start machines, out of the pool; and cold, with the start of our process in it. */
async function measureBoot(context: Context): Promise<Figure[]> {
  const { boot, cpu, suffix } = context;
  using pool = new PoolBoots(boot);
  const samples = await takeTurns(context, "boot from the pool, cold", async (side) =>
    side === "ours"
      ? [await pool.time(), await bootOurs(boot)]
      : // Twice, so that each of ours has a turn of its own.
        [await bootQemu(boot, cpu), await bootQemu(boot, cpu)],
  );
  return [
    figureOf(`boot${suffix}`, "ms", samples),
    figureOf(`boot_cold${suffix}`, "ms", samples, 1),
  ];
}

/** Throws with the guest's words when a job gave no number. */
function numberOf(outcomes: readonly Outcome[], job: Job, i: number): number {
  const outcome = outcomes.find((it) => it.job === job);
  const number = outcome?.numbers[i];
  if (number === undefined || !(number > 0))
    throw new Error(`${job} failed in the guest: ${outcome?.words ?? "not run"}`);
  return number;
}

function blockWork({ directory, dataMib }: Context, jobs: readonly Job[]): Workload {
  checkTools();
  const data = join(directory, "data");
  if (!existsSync(data)) {
    const argv = ["dd", "if=/dev/urandom", `of=${data}`, "bs=1M", `count=${dataMib}`];
    if (Bun.spawnSync(argv).exitCode !== 0) throw new Error(`Cannot write ${data}`);
  }
  return { jobs, disks: [toolsImage(cacheDir()), data], network: null, port: 0 };
}

async function measureBlk(context: Context): Promise<Figure[]> {
  const work = blockWork(context, ["randread", "seqread"]);
  const samples = await takeTurns(context, "blk", async (side) => {
    const outcomes = await runWorkload(side, context.work, work, context.cpu);
    return [numberOf(outcomes, "randread", 2), numberOf(outcomes, "seqread", 1) / 1_024];
  });
  return [
    figureOf(`blk_randread_4k${context.suffix}`, "requests/s", samples),
    figureOf(`blk_seq_read${context.suffix}`, "MiB/s", samples, 1),
  ];
}

async function measureNet(context: Context, kind: "tap" | "user"): Promise<Figure[]> {
  const work = blockWork(context, ["send", "receive"]);
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
    figureOf(`net_${kind}${context.suffix}`, "Mbit/s", samples),
    figureOf(`net_${kind}_receive${context.suffix}`, "Mbit/s", samples, 1),
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
  const work = blockWork(context, ["randread"]);
  const requests = await takeTurns(few, "exits of a request", async (side) => {
    using counter = new ExitCounter(directory);
    const outcomes = await runWorkload(side, context.work, work, cpu, counter);
    // KiB of 4 KiB requests.
    return [counter.read() / (numberOf(outcomes, "randread", 0) / 4)];
  });
  return [
    figureOf(`exits_per_boot${context.suffix}`, "exits", boots),
    figureOf(`exits_per_request${context.suffix}`, "exits", requests),
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
      boot.signal.throwIfAborted();
      const ms = await starter.time(side);
      if (round > 0) times.push(ms);
    }
    say(`${side}: ${times.map((ms) => ms.toFixed(1)).join(" ")} ms`);
    const names = { bench: "vmm", figure: `start_to_entry_${side}_ms`, unit: "ms" };
    figures.push(makeFigure(names, times, null));
  }
  return figures;
}
