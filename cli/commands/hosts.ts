import { Host } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { exactly, integer, parse, UsageError, type Command } from "../command.ts";
import { LIMITS } from "../../lib/limits.ts";
import { err, out } from "../output.ts";
import { age, mib, table } from "../render.ts";

export const command: Command = {
  summary: "list hosts; let them in, cordon, drain and shut them out",
  help: `usage: lev hosts [--json]
       lev hosts token [--ttl SECONDS]
       lev hosts revoke HOST
       lev hosts cordon | uncordon HOST
       lev hosts drain [--stop] [--deadline SECONDS] HOST

CPUS, MEMORY and DISK are committed / offered. HOST is an id or a name.

  token   prints a join token: an agent that is started with it in LEVERET_JOIN_TOKEN
          gets its certificate. For one host, within the hour (--ttl: seconds)
  revoke  takes the host's certificate away: its stream ends and it cannot come back;
          its machines run on. A later join token lets it in with a new key
  cordon  keeps new runs away from the host; uncordon ends that, and a drain
  drain   cordons the host and moves its machines to others, each with a fresh disk
          (--stop: stops them there); after the deadline (300 s) they are killed
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

const VERBS: Record<string, (argv: string[]) => Promise<number>> = {
  token,
  revoke,
  cordon: (argv) => change("cordon", argv),
  uncordon: (argv) => change("uncordon", argv),
  drain,
};

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

async function change(verb: "cordon" | "uncordon", argv: string[]): Promise<number> {
  const [host = ""] = exactly(parse(argv, {}).positionals, 1, "HOST");
  await post(host, verb, {});
  return 0;
}

async function drain(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, {
    stop: { type: "boolean" },
    deadline: { type: "string" },
  });
  const [host = ""] = exactly(positionals, 1, "HOST");
  const { deadline } = values;
  await post(host, "drain", {
    mode: values.stop === true ? "stop" : "move",
    ...(deadline === undefined ? {} : { deadline: integer("--deadline", deadline, 0, 86_400) }),
  });
  return 0;
}

async function post(host: string, verb: string, body: object): Promise<void> {
  const path = `/v1/hosts/${encodeURIComponent(host)}/${verb}`;
  const { id } = await Client.fromEnvironment().call("POST", path, Host, { body });
  await out(`${id}\n`);
}

function stateOf(host: Host): string {
  if (host.draining !== null) return `${host.state}, draining`;
  if (host.cordoned) return `${host.state}, cordoned`;
  return host.quarantined_until === null ? host.state : `${host.state}, quarantined`;
}

/** Pure. */
export function hostsTable(hosts: Host[], now: number): string {
  const rows = hosts.map((host) => [
    host.id,
    host.hostname,
    stateOf(host),
    host.kvm,
    String(host.machines),
    `${host.committed.cpus} / ${host.capacity.cpus}`,
    `${mib(host.committed.memory_mb)} / ${mib(host.capacity.memory_mb)}`,
    `${mib(host.committed.disk_mb)} / ${mib(host.capacity.disk_mb)}`,
    age(host.last_seen_at, now),
  ]);
  const header = ["ID", "NAME", "STATE", "KVM", "MACHINES", "CPUS", "MEMORY", "DISK", "SEEN"];
  return table(header, rows);
}
