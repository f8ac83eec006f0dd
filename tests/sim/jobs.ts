/** Many seeds over several processes: each takes the next range of seeds until none is left. */
import { join } from "node:path";

/** So long that starting a process does not count, so short that little is lost with one. */
export const RANGE = 1_000;
const MAIN = join(import.meta.dir, "main.ts");

export type Tally = { seeds: number; steps: number; failed: number };
type Range = { from: number; seeds: number };

/** Prints what fails and, range by range, how far it has come: `--from` goes on from there. */
export async function simulateInJobs(
  all: Range,
  jobs: number,
  flags: string[],
  failuresMax: number,
): Promise<Tally> {
  const total: Tally = { seeds: 0, steps: 0, failed: 0 };
  const end = all.from + all.seeds;
  const size = Math.min(RANGE, Math.ceil(all.seeds / jobs));
  let next = all.from;
  const work = async (): Promise<void> => {
    while (next < end && total.failed < failuresMax) {
      const range = { from: next, seeds: Math.min(size, end - next) };
      next += range.seeds;
      const tally = await runRange(range, flags);
      total.seeds += tally.seeds;
      total.steps += tally.steps;
      total.failed += tally.failed;
      process.stdout.write(
        `sim: seeds ${range.from} to ${range.from + tally.seeds - 1} done, ${tally.failed} failed; ${total.seeds} of ${all.seeds}\n`,
      );
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  return total;
}

async function runRange(range: Range, flags: string[]): Promise<Tally> {
  const child = Bun.spawn(
    [
      process.execPath,
      MAIN,
      "--jobs",
      "1",
      "--from",
      String(range.from),
      "--seeds",
      String(range.seeds),
      ...flags,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const [output] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  const last = /^(\d+) seeds from \d+, (\d+) steps, [\d.]+ s, (\d+) failed\n$/m.exec(output);
  if (last === null) throw new Error(`seeds from ${range.from} broke off: ${output.slice(-2_000)}`);
  process.stdout.write(output.slice(0, last.index));
  return { seeds: Number(last[1]), steps: Number(last[2]), failed: Number(last[3]) };
}
