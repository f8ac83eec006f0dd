/**
 * `bun run sim [--seeds N] [--from S] [--to T] [--jobs J] [--plant BUG]`: prints every
 * failing seed with its story and the command that replays it. Takes one process per CPU;
 * a run that was broken off goes on with `--from`, at the first seed that is not done.
 */
import { availableParallelism } from "node:os";
import { parseOrExit } from "../kit/command-line.ts";
import { Violation } from "./driver.ts";
import { RANGE, simulateInJobs, type Tally } from "./jobs.ts";
import { counted, PLANTS } from "./plants.ts";
import { isDeath } from "./time.ts";
import { simulate } from "./world.ts";

const FAILURES_MAX = 10;

/** Below this a second process costs more than it brings. */
const SEEDS_PER_JOB = 500;

const USAGE = `Usage: bun run sim [--seeds N] [--from S] [--to T] [--jobs J] [--plant ${Object.keys(PLANTS).join("|")}]`;

type Options = {
  seeds: number;
  from: number;
  jobs: number;
  plant: string | undefined;
  stopAtFirst: boolean;
};

function parse(): Options {
  const { values } = parseOrExit(USAGE, {
    options: {
      seeds: { type: "string", default: "100000" },
      from: { type: "string", default: "1" },
      to: { type: "string" },
      jobs: { type: "string" },
      plant: { type: "string" },
      "stop-at-first": { type: "boolean", default: false },
    },
  });
  const { plant, "stop-at-first": stopAtFirst } = values;
  const from = Number(values.from);
  const seeds = values.to === undefined ? Number(values.seeds) : Number(values.to) - from + 1;
  const most = stopAtFirst ? 1 : Math.min(availableParallelism(), Math.ceil(seeds / SEEDS_PER_JOB));
  const jobs = values.jobs === undefined ? most : Number(values.jobs);
  const known = plant === undefined || plant in PLANTS;
  const whole = [seeds, from, jobs].every(Number.isSafeInteger);
  if (whole && seeds > 0 && jobs > 0 && known) return { seeds, from, jobs, plant, stopAtFirst };
  process.stderr.write(`${USAGE}\n`);
  process.exit(64);
}

async function main(options: Options): Promise<number> {
  const { seeds, from, jobs, plant, stopAtFirst } = options;
  const began = performance.now();
  const flags = plant === undefined ? [] : ["--plant", plant];
  const alone = stopAtFirst || (jobs === 1 && seeds <= RANGE);
  const tally = alone
    ? await run(options)
    : await simulateInJobs({ from, seeds }, jobs, flags, FAILURES_MAX);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  process.stdout.write(
    `${tally.seeds} seeds from ${from}, ${tally.steps} steps, ${seconds} s, ${tally.failed} failed\n`,
  );
  return tally.failed === 0 ? 0 : 1;
}

/** In this process, one after the other. */
async function run({ seeds, from, plant, stopAtFirst }: Options): Promise<Tally> {
  const { bugs, changes } = counted(plant === undefined ? {} : (PLANTS[plant] ?? {}));
  const tally: Tally = { seeds: 0, steps: 0, failed: 0 };
  for (let seed = from; seed < from + seeds; seed += 1) {
    try {
      tally.steps += (await simulate(seed, bugs)).steps;
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      tally.failed += 1;
      const planted = plant === undefined ? "" : ` --plant ${plant}`;
      process.stdout.write(
        `FAIL ${error.message}\n  again: bun run sim --seeds 1 --from ${seed}${planted}\n`,
      );
    }
    tally.seeds += 1;
    if (tally.failed >= (stopAtFirst ? 1 : FAILURES_MAX)) break;
  }
  if (plant === undefined || changes() > 0) return tally;
  process.stderr.write(`sim: the plant ${plant} has changed nothing\n`);
  process.exit(2);
}

// What a dead process's promises still say is of no interest; everything else is a bug.
process.on("unhandledRejection", (error) => {
  if (isDeath(error)) return;
  process.stderr.write(`${Bun.inspect(error)}\n`);
  process.exit(2);
});
process.exit(await main(parse()));
