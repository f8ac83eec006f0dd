import type { Host } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { exactly, parse, type Command } from "../command.ts";
import { out } from "../output.ts";
import { age, mib, table } from "../render.ts";

export const command: Command = {
  summary: "list hosts and what they have room for",
  help: `usage: lev hosts [--json]

CPUS, MEMORY and DISK are committed / offered.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, { json: { type: "boolean" } });
    exactly(positionals, 0, "");
    const hosts = await Client.fromEnvironment().hosts();
    await out(
      values.json === true ? `${JSON.stringify(hosts, null, 2)}\n` : hostsTable(hosts, Date.now()),
    );
    return 0;
  },
};

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
