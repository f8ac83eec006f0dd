/** `lev`: finds the verb, runs it, and turns what it throws into one line and a code. */
import { LvError } from "../proto/errors.ts";
import { UsageError, type Command } from "./command.ts";
import { endQuietlyOnBrokenPipe, err, out } from "./output.ts";
import { versions } from "./paths.ts";
import { table } from "./render.ts";

/** Loaded when asked for: `lev ps` does not pay for the lab. */
const VERBS: Record<string, () => Promise<Command>> = {
  run: async () => (await import("./commands/run.ts")).command,
  ps: async () => (await import("./commands/machines.ts")).ps,
  logs: async () => (await import("./commands/logs.ts")).command,
  stop: async () => (await import("./commands/machines.ts")).stop,
  restart: async () => (await import("./commands/machines.ts")).restart,
  start: async () => (await import("./commands/machines.ts")).start,
  rm: async () => (await import("./commands/machines.ts")).rm,
  wait: async () => (await import("./commands/machines.ts")).wait,
  metrics: async () => (await import("./commands/metrics.ts")).command,
  inspect: async () => (await import("./commands/machines.ts")).inspect,
  update: async () => (await import("./commands/config.ts")).update,
  metadata: async () => (await import("./commands/config.ts")).metadata,
  lease: async () => (await import("./commands/config.ts")).lease,
  events: async () => (await import("./commands/events.ts")).events,
  audit: async () => (await import("./commands/events.ts")).audit,
  tokens: async () => (await import("./commands/tokens.ts")).command,
  projects: async () => (await import("./commands/projects.ts")).command,
  images: async () => (await import("./commands/images.ts")).images,
  pull: async () => (await import("./commands/images.ts")).pull,
  image: async () => (await import("./commands/images.ts")).image,
  load: async () => (await import("./commands/load.ts")).command,
  login: async () => (await import("./commands/login.ts")).login,
  logout: async () => (await import("./commands/login.ts")).logout,
  hosts: async () => (await import("./commands/hosts.ts")).command,
  kernel: async () => (await import("./commands/spawned.ts")).kernel,
  quickstart: async () => (await import("./commands/quickstart.ts")).command,
  lab: async () => (await import("./commands/lab.ts")).command,
  doctor: async () => (await import("./commands/doctor.ts")).command,
  test: async () => (await import("./commands/spawned.ts")).test,
};

async function helpText(): Promise<string> {
  const rows = await Promise.all(
    Object.entries(VERBS).map(async ([verb, load]) => [`  ${verb}`, (await load()).summary]),
  );
  return `usage: lev VERB [options]\n\n${table(["verb", ""], rows).split("\n").slice(1).join("\n")}
\`lev VERB --help\` says more. LEVERET_URL names the control plane
(default http://127.0.0.1:8080), LEVERET_TOKEN is who you are there and LEVERET_PROJECT\nwhose machines you mean.
`;
}

async function main(argv: string[]): Promise<number> {
  const [verb = "help", ...rest] = argv;
  if (["help", "--help", "-h"].includes(verb) && rest.length === 0) {
    await out(await helpText());
    return argv.length === 0 ? 2 : 0;
  }
  if (["version", "--version", "-v"].includes(verb)) {
    await out(`lev ${versions().leveret}\n`);
    return 0;
  }
  const wanted = verb === "help" ? (rest[0] ?? "") : verb;
  const load = Object.hasOwn(VERBS, wanted) ? VERBS[wanted] : undefined;
  if (load === undefined) throw new UsageError(`"${wanted}" is no verb of lev`);
  const command = await load();
  if (verb === "help" || asksForHelp(rest)) {
    await out(command.help);
    return 0;
  }
  try {
    return await command.run(rest);
  } catch (error) {
    if (error instanceof UsageError) throw new UsageError(`${wanted}: ${error.message}`);
    return await report(error, command.failureCode);
  }
}

/** --help before the first word that could belong to a command inside the machine. */
function asksForHelp(argv: string[]): boolean {
  const end = argv.findIndex((word) => !word.startsWith("-"));
  return argv
    .slice(0, end < 0 ? argv.length : end)
    .some((word) => word === "--help" || word === "-h");
}

async function report(thrown: unknown, code = 1): Promise<number> {
  if (thrown instanceof UsageError) {
    const verb = /^([a-z]+): /.exec(thrown.message)?.[1];
    await err(
      `lev: ${thrown.message}\nlev: \`lev ${verb ?? "help"}${verb ? " --help" : ""}\` says how\n`,
    );
    return 2;
  }
  const error = LvError.from(thrown);
  await err(`lev: ${error.reason}: ${error.message}\n`);
  // What no table row explains is a defect: show where it is.
  if (error.reason === "INTERNAL" && error.cause instanceof Error)
    await err(`${error.cause.stack ?? error.cause.message}\n`);
  return code;
}

endQuietlyOnBrokenPipe();
process.exit(await main(process.argv.slice(2)).catch((error: unknown) => report(error)));
