/** The arguments of `bun run sim | chaos | fuzz`. */
import { parseArgs, type ParseArgsConfig } from "node:util";

/** As parseArgs; `--help` ends the process with the usage, what is not known with that and 64. */
export function parseOrExit<T extends ParseArgsConfig>(
  usage: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  if (process.argv.slice(2).includes("--help")) {
    process.stdout.write(`${usage}\n`);
    process.exit(0);
  }
  try {
    return parseArgs(config);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${usage}\n`);
    process.exit(64);
  }
}
