import type { Host } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { exactly, integer, parse, UsageError, type Command } from "../command.ts";
import { LIMITS } from "../../lib/limits.ts";
import { err, out } from "../output.ts";
import { age, mib, table } from "../render.ts";

export const command: Command = {
  summary: "list hosts and what they have room for; let hosts in and shut them out",
  help: `usage: lev hosts [--json]
       lev hosts token [--ttl SECONDS]
       lev hosts revoke HOST

CPUS, MEMORY and DISK are committed / offered. HOST is an id or a name.

  token   prints a join token: an agent that is started with it in LEVERET_JOIN_TOKEN
          gets its certificate. For one host, within the hour (--ttl: seconds)
  revoke  takes the host's certificate away: its stream ends and it cannot come back;
          its machines run on. A later join token lets it in with a new key
`,
  run: async (argv) => {
    const [verb, ...rest] = argv;
    if (verb === undefined || verb.startsWith("-")) return list(argv);
    const run = Object.hasOwn(VERBS, verb) ? VERBS[verb] : undefined;
    if (run === undefined)
      throw new UsageError(`"${verb}" is none of ${Object.keys(VERBS).join(", ")}`);
    return run(rest);
  },
};

const VERBS: Record<string, (argv: string[]) => Promise<number>> = { token, revoke };

async function list(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, { json: { type: "boolean" } });
  exactly(positionals, 0, "");
  const hosts = await Client.fromEnvironment().hosts();
  await out(
    values.json === true ? `${JSON.stringify(hosts, null, 2)}\n` : hostsTable(hosts, Date.now()),
  );
  return 0;
}

async function token(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, { ttl: { type: "string" } });
  exactly(positionals, 0, "");
  const seconds =
    values.ttl === undefined ? undefined : integer("--ttl", values.ttl, 1, LIMITS.joinTokenTtlMaxS);
  const made = await Client.fromEnvironment().joinToken(seconds);
  await err(
    `lev: for one host, until ${made.expires_at}; set it as the agent's LEVERET_JOIN_TOKEN\n`,
  );
  await out(`${made.token}\n`);
  return 0;
}

async function revoke(argv: string[]): Promise<number> {
  const { positionals } = parse(argv, {});
  const [host = ""] = exactly(positionals, 1, "HOST");
  const { host_id: id, keys } = await Client.fromEnvironment().revokeHost(host);
  await err(keys === 0 ? `lev: ${id} had no certificate\n` : `lev: ${id} is shut out\n`);
  return 0;
}

/** Pure. */
export function hostsTable(hosts: Host[], now: number): string {
  const rows = hosts.map(({ committed, capacity, ...host }) => [
    host.id,
    host.hostname,
    host.state,
    host.kvm,
    String(host.machines),
    `${committed.cpus} / ${capacity.cpus}`,
    `${mib(committed.memory_mb)} / ${mib(capacity.memory_mb)}`,
    `${mib(committed.disk_mb)} / ${mib(capacity.disk_mb)}`,
    age(host.last_seen_at, now),
  ]);
  const header = ["ID", "NAME", "STATE", "KVM", "MACHINES", "CPUS", "MEMORY", "DISK", "SEEN"];
  return table(header, rows);
}
