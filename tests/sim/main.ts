/**
 * `bun run sim [--seeds N] [--from S] [--plant BUG]`: prints every failing seed with
 * its story and the command that replays it.
 */
import { parseArgs } from "node:util";
import { Violation } from "./driver.ts";
import { counted, PLANTS } from "./plants.ts";
import { isDeath } from "./time.ts";
import { simulate } from "./world.ts";

const FAILURES_MAX = 10;

type Options = { seeds: number; from: number; plant: string | undefined; stopAtFirst: boolean };

function parse(): Options {
  const { values } = parseArgs({
    options: {
      seeds: { type: "string", default: "100000" },
      from: { type: "string", default: "1" },
      plant: { type: "string" },
      "stop-at-first": { type: "boolean", default: false },
    },
  });
  const { plant, "stop-at-first": stopAtFirst } = values;
  const seeds = Number(values.seeds);
  const from = Number(values.from);
  const known = plant === undefined || plant in PLANTS;
  if (Number.isSafeInteger(seeds) && Number.isSafeInteger(from) && seeds > 0 && known)
    return { seeds, from, plant, stopAtFirst };
  process.stderr.write(
    `Usage: bun run sim [--seeds N] [--from S] [--plant ${Object.keys(PLANTS).join("|")}]\n`,
  );
  process.exit(64);
}

async function main({ seeds, from, plant, stopAtFirst }: Options): Promise<number> {
  const { bugs, changes } = counted(plant === undefined ? {} : (PLANTS[plant] ?? {}));
  const began = performance.now();
  let failed = 0;
  let done = 0;
  let steps = 0;
  for (let seed = from; seed < from + seeds; seed += 1) {
    try {
      steps += (await simulate(seed, bugs)).steps;
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      failed += 1;
      const planted = plant === undefined ? "" : ` --plant ${plant}`;
      process.stdout.write(
        `FAIL ${error.message}\n  again: bun run sim --seeds 1 --from ${seed}${planted}\n`,
      );
    }
    done += 1;
    if (failed >= (stopAtFirst ? 1 : FAILURES_MAX)) break;
    if (done % 1_000 === 0) process.stderr.write(`sim: ${done} seeds, ${failed} failed\n`);
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  process.stdout.write(
    `${done} seeds from ${from}, ${steps} steps, ${seconds} s, ${failed} failed\n`,
  );
  if (plant !== undefined && changes() === 0) {
    process.stderr.write(`sim: the plant ${plant} has changed nothing\n`);
    return 2;
  }
  return failed === 0 ? 0 : 1;
}

// What a dead process's promises still say is of no interest; everything else is a bug.
process.on("unhandledRejection", (error) => {
  if (isDeath(error)) return;
  process.stderr.write(`${Bun.inspect(error)}\n`);
  process.exit(2);
});
process.exit(await main(parse()));
