/** Verbs that are programs of other parts, run as processes: kernel, test. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { constants } from "node:os";
import type { Command } from "../command.ts";
import { BUN, CHECKOUT } from "../paths.ts";
import { Steps } from "../progress.ts";
import { SETUP_STEPS, setUp, toolPath } from "../setup/prepare.ts";

export const kernel: Command = {
  summary: "make or import the guest kernel package",
  help: `usage: lev kernel [--kernel FILE] [--initrd FILE] [--modules none] [--print] [--list]

Without flags: vmlinux and initramfs out of Debian's linux-image-cloud-amd64,
cached by digest. With --kernel (and --initrd) your own files become a package.

  --modules none  an initramfs without modules, for kernels with drivers built in
  --print         the package's paths as JSON
  --list          the packages there are
`,
  run: (argv) => runProgram(["agent/kernel/main.ts", ...argv]),
};

export const test: Command = {
  summary: "run the whole test suite",
  help: `usage: lev test [GROUP…]

Installs what the tests need, builds the native parts and the guest kernel
package, then runs every group or those that are named. The last line is
"N passed, N failed".
`,
  run: async (argv) => {
    await setUp(new Steps(SETUP_STEPS));
    return runProgram(["tests/main.ts", ...argv]);
  },
};

/** Bun with the checkout as its directory; our signals are its signals, its code is ours. */
async function runProgram(words: string[]): Promise<number> {
  const [file = "", ...args] = words;
  const child = spawn(BUN, ["--no-env-file", join(CHECKOUT, file), ...args], {
    cwd: CHECKOUT,
    env: { ...process.env, PATH: toolPath() },
    stdio: "inherit",
  });
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on("SIGINT", forward);
  process.on("SIGTERM", forward);
  return new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) =>
      resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])),
    );
  });
}
