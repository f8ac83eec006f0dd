/** `bun run chaos [--minutes N] [--seed S]` */
import { parseOrExit } from "../kit/command-line.ts";
import { runChaos } from "./chaos.ts";

const { values } = parseOrExit("Usage: bun run chaos [--minutes N] [--seed S]", {
  options: { minutes: { type: "string", default: "30" }, seed: { type: "string" } },
});
const seed = Number(values.seed ?? Date.now() % 1_000_000);
const began = performance.now();
const say = (line: string): void =>
  void process.stderr.write(`${((performance.now() - began) / 1000).toFixed(1)} s  ${line}\n`);
const seconds = (ms: number): string => (ms / 1000).toFixed(1);
// Agents and machines outlive their parents on purpose: nobody else would end these.
const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.once(signal, () => stop.abort());
try {
  const result = await runChaos(Number(values.minutes), seed, say, stop.signal);
  process.stdout.write(
    `seed ${seed}: ${result.faults} faults, ${result.requests} requests, ${result.machines} machines; ${result.restMs.length} rounds, at rest ${seconds(Math.max(...result.restMs))} s after the last fault at worst\n`,
  );
  process.exit(0);
} catch (error) {
  process.stdout.write(
    `FAIL seed ${seed}: ${error instanceof Error ? error.message : String(error)}\n`,
  );
  process.exit(1);
}
