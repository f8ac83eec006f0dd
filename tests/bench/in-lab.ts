/**
 * A benchmark inside the lab: the same script with Debian's kernel, run in a lab of
 * its own that is gone afterwards. Times are emulated time; only ratios speak. One CPU:
 * labs with two stall at times (tests/lab/vm.test.ts says when).
 */
import { join } from "node:path";
import { z } from "zod";
import { execInLab } from "../../cli/lab/exec.ts";
import { LAB_DEFAULTS, startLab, stopLab } from "../../cli/lab/lab.ts";
import { BUN, CHECKOUT } from "../../cli/paths.ts";
import type { Figure } from "./report.ts";

const KernelPackage = z.object({ kernelPath: z.string(), initrdPath: z.string() });

const ReportedFigure = z.object({
  bench: z.string(),
  figure: z.string(),
  ours: z.number(),
  peer: z.number().nullable(),
  ratio: z.number().nullable(),
  unit: z.string(),
  n: z.number(),
  spread: z.number(),
});

/** On the lab's own disk, as an agent's machines are. */
const TMPDIR = "/run/leveret";

/**
 * The figures of `bench ARGS --kernel … --initrd …`. Throws with the words of what
 * failed: no kernel package, no lab, a failed run.
 */
export async function benchInLab(
  args: readonly string[],
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<Figure[]> {
  const kernel = kernelPackage();
  const name = `bench-${process.pid}`;
  say("booting a lab");
  const lab = await startLab({ ...LAB_DEFAULTS, cpus: 1, name, signal });
  try {
    let output = "";
    let errors = "";
    const files = [`--kernel=${kernel.kernelPath}`, `--initrd=${kernel.initrdPath}`];
    const code = await execInLab(lab, {
      argv: [BUN, join(CHECKOUT, "tests/bench/main.ts"), ...args, ...files, "--json"],
      env: { TMPDIR },
      signal,
      onOutput: (stream, bytes) => {
        const text = Buffer.from(bytes).toString("utf8");
        if (stream === "stdout") output += text;
        else {
          errors += text;
          process.stderr.write(text);
        }
      },
    });
    if (code !== 0) throw new Error(`the benchmark in the lab ended with ${code}: ${errors}`);
    return output
      .trim()
      .split("\n")
      .map((line) => ReportedFigure.parse(JSON.parse(line)));
  } finally {
    await stopLab(name);
  }
}

function kernelPackage(): z.infer<typeof KernelPackage> {
  const made = Bun.spawnSync([BUN, join(CHECKOUT, "agent/kernel/main.ts"), "--print"]);
  if (made.exitCode !== 0) throw new Error(`no guest kernel: ${made.stderr.toString()}`);
  return KernelPackage.parse(JSON.parse(made.stdout.toString()));
}
