/**
 * `bun run fuzz [TARGET…] [--execs N | --minutes M | --seconds S]`: feeds hostile input
 * to what a guest, a kernel file or a local client can reach, one target after another.
 *
 *   native/fuzz/*.c         the shim's devices: libFuzzer, ASan and UBSan (clang)
 *   tests/fuzz/targets/*.ts the VMM's parsers: tests/fuzz/engine.ts
 *
 * Each target begins with its inputs in native/fuzz/corpus or tests/fuzz/corpus. What it
 * learns goes to native/out/fuzz-corpus, which later runs begin with too; `--minimise`
 * puts the smallest inputs that reach as much back into the folder in git. An input that
 * ends in a finding is left in native/out/fuzz-findings; once mended it belongs into the
 * corpus, under the name of what it showed.
 */
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { shutdownSignal } from "../../lib/signals.ts";
import { parseOrExit } from "../kit/command-line.ts";

const ROOT = join(import.meta.dir, "../..");
const NATIVE = join(ROOT, "native/fuzz");
const OUT = join(ROOT, "native/out");
const FINDINGS = join(OUT, "fuzz-findings");
const USAGE = "Usage: bun run fuzz [TARGET…] [--execs N | --minutes M | --seconds S] [--minimise]";
const EXECS = 10_000_000;
/** As a shell has it of SIGTERM. */
const STOPPED = 143;
const COMPILER = "clang-14";
/** Of the C programs; a longer input only repeats itself. */
const INPUT_MAX_BYTES = 512;
/** Of the files in git, which are small on purpose. */
const CORPUS_MAX_FILES = 60;
const CORPUS_MAX_BYTES = 192;

type Bounds = { execs: number; seconds: number };
type Result = { execs: number; seconds: number; finding: string };

type Target = {
  name: string;
  argv: (bounds: Bounds) => string[];
};

/** AddressSanitizer keeps less of what was freed: a run is short, and the rest is page faults. */
const ENV = {
  ...process.env,
  ASAN_OPTIONS: "quarantine_size_mb=2:thread_local_quarantine_size_kb=64",
  UBSAN_OPTIONS: "print_stacktrace=1",
};

const names = (dir: string, end: string): string[] =>
  readdirSync(dir)
    .filter((name) => name.endsWith(end))
    .map((name) => name.slice(0, -end.length))
    .toSorted();

function folder(...parts: string[]): string {
  const path = join(...parts);
  mkdirSync(path, { recursive: true });
  return path;
}

function nativeTargets(): Target[] {
  return names(NATIVE, ".c")
    .filter((name) => name !== "kit" && name !== "guest")
    .map((name) => ({
      name,
      argv: ({ execs, seconds }) => [
        join(OUT, "fuzz", name),
        ...(seconds > 0 ? [`-max_total_time=${seconds}`] : [`-runs=${execs}`]),
        `-max_len=${INPUT_MAX_BYTES}`,
        "-timeout=10",
        "-print_final_stats=1",
        "-verbosity=0",
        `-artifact_prefix=${FINDINGS}/${name}-`,
        folder(OUT, "fuzz-corpus", name),
        join(NATIVE, "corpus", name),
      ],
    }));
}

function parserTargets(): Target[] {
  return names(join(import.meta.dir, "targets"), ".ts").map((name) => ({
    name,
    argv: ({ execs, seconds }) => [
      process.execPath,
      join(import.meta.dir, "engine.ts"),
      name,
      String(execs),
      String(seconds),
      FINDINGS,
    ],
  }));
}

/** False when there is no compiler for them. */
async function build(): Promise<boolean> {
  if (Bun.which(COMPILER) === null) return false;
  const jobs = Math.min(2, availableParallelism());
  const make = Bun.spawn(["make", "-s", "-C", NATIVE, `-j${jobs}`], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  if ((await make.exited) !== 0) throw new Error("the fuzz targets do not build");
  return true;
}

/** Both engines end with the same line for what they did. */
const executed = (said: string): number =>
  Number(/^stat::number_of_executed_units: (\d+)$/m.exec(said)?.[1] ?? 0);

async function run(target: Target, bounds: Bounds, signal: AbortSignal): Promise<Result> {
  const began = performance.now();
  const child = Bun.spawn(target.argv(bounds), {
    stdio: ["ignore", "pipe", "pipe"],
    env: ENV,
    signal,
    killSignal: "SIGKILL",
  });
  // One that hangs in a single input: libFuzzer has its own clock, the other engine not.
  const limitMs = bounds.seconds > 0 ? bounds.seconds * 1_000 + 60_000 : 4 * 3_600_000;
  const timer = setTimeout(() => child.kill("SIGKILL"), limitMs);
  const [out, said, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  clearTimeout(timer);
  const text = `${out}${said}`;
  const execs = executed(text);
  const seconds = (performance.now() - began) / 1_000;
  const ended = code === 0 && execs > 0;
  return { execs, seconds, finding: ended ? "" : text.trimEnd().slice(-6_000) };
}

function report(name: string, { execs, seconds, finding }: Result): void {
  const rate = Math.round(execs / Math.max(seconds, 0.001));
  const text = `${name}: ${execs} executions, ${rate}/s, ${finding === "" ? 0 : 1} findings`;
  process.stdout.write(finding === "" ? `ok ${text}\n` : `${finding}\nFAIL ${text}\n`);
}

/** Small inputs that together reach what all of them do. */
async function minimise(target: Target): Promise<void> {
  const kept = join(NATIVE, "corpus", target.name);
  const learnt = folder(OUT, "fuzz-corpus", target.name);
  const chosen = folder(OUT, "fuzz-minimised", target.name);
  for (const name of readdirSync(chosen)) await Bun.file(join(chosen, name)).delete();
  const argv = [join(OUT, "fuzz", target.name), "-merge=1", `-max_len=${CORPUS_MAX_BYTES}`];
  const merge = Bun.spawn([...argv, chosen, kept, learnt], {
    stdio: ["ignore", "ignore", "ignore"],
    env: ENV,
  });
  await merge.exited;
  // Spread over all sizes rather than the first of them.
  const all = readdirSync(chosen).toSorted();
  const step = Math.max(1, all.length / CORPUS_MAX_FILES);
  const some = new Set(all.filter((_, i) => Math.floor(i / step) !== Math.floor((i - 1) / step)));
  // Regression inputs have names; the others are called by their hash.
  for (const name of readdirSync(kept))
    if (/^[0-9a-f]{40}$/.test(name) && !some.has(name)) await Bun.file(join(kept, name)).delete();
  for (const name of some) await Bun.write(join(kept, name), Bun.file(join(chosen, name)));
  process.stdout.write(`${target.name}: ${all.length} inputs, ${readdirSync(kept).length} kept\n`);
}

function parse(): { wanted: string[]; bounds: Bounds; minimised: boolean } {
  const { values, positionals } = parseOrExit(USAGE, {
    allowPositionals: true,
    options: {
      execs: { type: "string", default: String(EXECS) },
      minutes: { type: "string", default: "0" },
      seconds: { type: "string", default: "0" },
      minimise: { type: "boolean", default: false },
    },
  });
  const execs = Number(values.execs);
  const seconds = Math.round(Number(values.minutes) * 60 + Number(values.seconds));
  if (Number.isSafeInteger(execs) && execs > 0 && Number.isSafeInteger(seconds) && seconds >= 0)
    return { wanted: positionals, bounds: { execs, seconds }, minimised: values.minimise };
  process.stderr.write(`${USAGE}\n`);
  process.exit(64);
}

async function main(): Promise<number> {
  const { wanted, bounds, minimised } = parse();
  const native = nativeTargets();
  const all = [...native, ...parserTargets()];
  const unknown = wanted.filter((name) => !all.some((target) => target.name === name));
  if (unknown.length > 0) {
    const known = all.map(({ name }) => name).join(", ");
    process.stderr.write(`There is no target "${unknown.join('", "')}"; there are: ${known}\n`);
    return 64;
  }
  const signal = shutdownSignal();
  folder(FINDINGS);
  const built = await build();
  let passed = 0;
  let failed = 0;
  for (const target of all) {
    if (wanted.length > 0 && !wanted.includes(target.name)) continue;
    if (native.includes(target)) {
      folder(NATIVE, "corpus", target.name);
      if (!built || !existsSync(join(OUT, "fuzz", target.name))) {
        process.stdout.write(`skip ${target.name}: ${COMPILER} is not installed\n`);
        continue;
      }
      if (minimised) await minimise(target);
    }
    if (minimised) continue;
    const result = await run(target, bounds, signal);
    if (signal.aborted) return STOPPED;
    report(target.name, result);
    if (result.finding === "") passed += 1;
    else failed += 1;
  }
  if (!minimised) process.stdout.write(`${passed} passed, ${failed} failed\n`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main();
