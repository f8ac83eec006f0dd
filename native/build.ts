/**
 * `bun native/build.ts` builds everything native into native/out, quietly; when it
 * fails, the compiler's own words follow. `--abi` also writes abi.gen.ts anew.
 */
import { mkdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";

/** Thresholds of the JIT in multiples of the usual ones, until the guest runs. */
const START_JIT_POLICY = 100;

const ABI_FILE = join(import.meta.dir, "abi.gen.ts");
const OUT = join(import.meta.dir, "out");

/** Runs make for a target, one build at a time; throws with its whole output. */
export async function make(target = "all"): Promise<void> {
  const jobs = `-j${availableParallelism()}`;
  mkdirSync(OUT, { recursive: true });
  // Tests of several files build at once, and make knows nothing of its other selves.
  const command = ["flock", join(OUT, ".lock"), "make", "--silent", jobs, "-C", import.meta.dir];
  const child = Bun.spawn([...command, target], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, error, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`Cannot build native/ (${target}):\n${output}${error}`);
}

/**
 * The VMM as one program, out/leveret-vmm: Bun with agent/vmm and its bytecode inside. A
 * jail holds it instead of a source tree, and it starts without a transpiler or a parser.
 * It reads no settings from where it runs, and compiles no machine code while it starts.
 */
async function compileVmm(): Promise<void> {
  const entrypoints = [join(import.meta.dir, "../agent/vmm/main.ts")];
  const outfile = join(OUT, "leveret-vmm");
  // Where Bun writes what it renames at the end: one that is executed is not written to.
  mkdirSync(OUT, { recursive: true });
  process.chdir(OUT);
  const result = await Bun.build({
    entrypoints,
    target: "bun",
    format: "cjs",
    bytecode: true,
    compile: { outfile, autoloadDotenv: false, autoloadBunfig: false, jitPolicy: START_JIT_POLICY },
  });
  if (!result.success)
    throw new Error(`Cannot compile the VMM:\n${result.logs.map(String).join("\n")}`);
}

/** What abi.gen.ts must hold, printed by the compiled headers. Needs a build. */
export async function printAbi(): Promise<string> {
  const child = Bun.spawn([join(import.meta.dir, "out/abi-gen")], {
    stdin: "ignore",
    stdout: "pipe",
  });
  const text = await new Response(child.stdout).text();
  const code = await child.exited;
  if (code !== 0) throw new Error(`Cannot print the ABI: abi-gen ended with ${code}`);
  return text;
}

if (import.meta.main) {
  try {
    await Promise.all([make(), compileVmm()]);
    if (process.argv.includes("--abi")) await Bun.write(ABI_FILE, await printAbi());
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
