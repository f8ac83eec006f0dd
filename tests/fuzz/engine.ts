/**
 * Fuzzes one of targets/*.ts: `engine.ts TARGET EXECS SECONDS FINDINGS`. It mutates the
 * inputs of tests/fuzz/corpus/TARGET, bytes or the JSON that they are, and tells inputs
 * apart by their outcome: a target returns what came of an input (accepted, or which
 * refusal), and an input with a new outcome joins the corpus of this run. So it is led by
 * which refusals exist, not by coverage: a JavaScript engine gives none that is cheap,
 * and jazzer.js 4 brings a library for newer systems than Debian 12 alone.
 *
 * A target throws for a finding; the input is written down and the run ends with 1.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mutateJson } from "./json.ts";
import { mutateBytes, type Random, seeded } from "./mutate.ts";

export type FuzzTarget = {
  /** What came of it; throws for a finding. */
  fuzz: (data: Uint8Array) => string;
  /** Whether inputs are JSON. */
  json: boolean;
  /** Pieces that an input may need. */
  words: Uint8Array[];
};

const POOL_MAX = 2_000;
const OUTCOMES_MAX = 10_000;
const BATCH = 1_000;
const INPUT_MAX_BYTES = 8_192;

const isTarget = (value: unknown): value is { target: FuzzTarget } =>
  typeof value === "object" && value !== null && "target" in value;

function readCorpus(name: string): Uint8Array[] {
  const dir = join(import.meta.dir, "corpus", name);
  return readdirSync(dir)
    .toSorted()
    .map((file) => readFileSync(join(dir, file)));
}

class Run {
  readonly #target: FuzzTarget;
  readonly #findings: string;
  readonly #pool: Uint8Array[];
  readonly #outcomes = new Set<string>();
  readonly #random: Random;
  executed = 0;

  constructor(target: FuzzTarget, corpus: Uint8Array[], findings: string, seed: number) {
    this.#target = target;
    this.#findings = findings;
    this.#pool = [...corpus];
    this.#random = seeded(seed);
    for (const input of corpus) this.#try(input);
  }

  get outcomes(): number {
    return this.#outcomes.size;
  }

  batch(): void {
    for (let i = 0; i < BATCH; i += 1) {
      const input = this.#next();
      if (this.#try(input) && this.#pool.length < POOL_MAX) this.#pool.push(input);
    }
  }

  #pick(): Uint8Array {
    return this.#pool[this.#random(this.#pool.length)] ?? new Uint8Array(0);
  }

  #next(): Uint8Array {
    const from = this.#pick();
    const { json, words } = this.#target;
    const mutated =
      json && this.#random(4) > 0
        ? mutateJson(from, this.#random)
        : mutateBytes(from, this.#pick(), words, this.#random);
    return mutated.subarray(0, INPUT_MAX_BYTES);
  }

  /** True when the outcome is a new one. */
  #try(input: Uint8Array): boolean {
    this.executed += 1;
    let outcome: string;
    try {
      outcome = this.#target.fuzz(input);
    } catch (error) {
      const path = `${this.#findings}-${Bun.hash(input).toString(16)}`;
      writeFileSync(path, input);
      process.stderr.write(`finding, input in ${path}\n`);
      throw error;
    }
    // Numbers in a message are the input's own.
    const kind = outcome.slice(0, 120).replaceAll(/0x[0-9a-f]+|\d+/g, "#");
    if (this.#outcomes.has(kind) || this.#outcomes.size >= OUTCOMES_MAX) return false;
    this.#outcomes.add(kind);
    return true;
  }
}

async function main([name = "", execs, seconds, findings = ""]: string[]): Promise<void> {
  const module: unknown = await import(join(import.meta.dir, "targets", `${name}.ts`));
  if (!isTarget(module)) throw new Error(`targets/${name}.ts exports no target`);
  const seed = crypto.getRandomValues(new Uint32Array(1))[0] ?? 1;
  const run = new Run(module.target, readCorpus(name), join(findings, name), seed);
  const end = Number(seconds) > 0 ? performance.now() + Number(seconds) * 1_000 : Infinity;
  const limit = Number(seconds) > 0 ? Infinity : Number(execs);
  while (run.executed < limit && performance.now() < end) run.batch();
  process.stdout.write(`seed ${seed}, ${run.outcomes} outcomes\n`);
  process.stdout.write(`stat::number_of_executed_units: ${run.executed}\n`);
}

if (import.meta.main) await main(process.argv.slice(2));
