/** What a verb is, and how its arguments are read. */
import { parseArgs, type ParseArgsConfig } from "node:util";

export type Command = {
  /** One line for `lev help`. */
  summary: string;
  /** The whole text of `lev VERB --help`. */
  help: string;
  /** Returns the exit code. Throws UsageError or LvError. */
  run(argv: string[]): Promise<number>;
  /** The exit code for an LvError (default 1). */
  failureCode?: number;
};

/** A wrong command line: one line, a hint at --help, exit code 2. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "UsageError";
  }
}

type Options = NonNullable<ParseArgsConfig["options"]>;

/** Strict: an unknown flag or a flag without its value is a UsageError. */
export function parse<T extends Options>(argv: string[], options: T) {
  try {
    return parseArgs({ args: argv, options, allowPositionals: true, strict: true });
  } catch (error) {
    throw new UsageError(usageText(error));
  }
}

/**
 * As `parse`, for a command that is followed by another command's words: flags
 * end at the first word that is not one, and the rest is left alone.
 */
export function parseBefore<T extends Options>(argv: string[], options: T) {
  const { tokens } = parseArgs({
    args: argv,
    options,
    allowPositionals: true,
    strict: false,
    tokens: true,
  });
  const first = tokens.find((token) => token.kind === "positional");
  const end = first === undefined ? argv.length : first.index;
  const dashes = argv.indexOf("--");
  const own = parse(argv.slice(0, end), options);
  const rest = dashes >= 0 && dashes < end ? argv.slice(dashes + 1) : argv.slice(end);
  return { values: own.values, rest };
}

function usageText(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // Node's text goes on with advice about "--" that does not fit here.
  return error.message.split(". To specify")[0]?.replace(/\.$/, "") ?? error.message;
}

/** A whole number within bounds. Throws UsageError naming the flag. */
export function integer(flag: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max)
    throw new UsageError(`${flag} "${text}" is not a whole number from ${min} to ${max}`);
  return value;
}

/** Exactly `count` words. */
export function exactly(positionals: string[], count: number, what: string): string[] {
  if (positionals.length < count) throw new UsageError(`${what} is missing`);
  const extra = positionals[count];
  if (extra !== undefined) throw new UsageError(`"${extra}" is one word too many`);
  return positionals;
}

/** KEY=VALUE, or KEY alone = the value it has here (left out when it has none), as in docker. */
export function environment(
  words: string[],
  env: NodeJS.ProcessEnv = process.env,
): Record<string, string> {
  const result: Record<string, string> = {};
  for (const word of words) {
    const equals = word.indexOf("=");
    const key = equals < 0 ? word : word.slice(0, equals);
    if (key === "") throw new UsageError(`-e "${word}" has no name before the "="`);
    const value = equals < 0 ? env[key] : word.slice(equals + 1);
    if (value !== undefined) result[key] = value;
  }
  return result;
}
