import { Project } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { exactly, integer, parse, UsageError, type Command } from "../command.ts";
import { out } from "../output.ts";
import { table } from "../render.ts";

const QUOTAS = {
  machines: { type: "string" },
  cpus: { type: "string" },
  memory: { type: "string" },
  disk: { type: "string" },
} as const;

export const command: Command = {
  summary: "list, make and remove projects, and set their quotas",
  help: `usage: lev projects [--json]
       lev projects create [QUOTA…] NAME
       lev projects quota QUOTA… PROJECT
       lev projects rm PROJECT

QUOTA is --machines N, --cpus N, --memory MIB or --disk MIB; "none" lifts one.
LEVERET_PROJECT chooses the project that the other verbs are about.
`,
  run: async (argv) => {
    const [verb, ...rest] = argv;
    if (verb === undefined || verb.startsWith("-")) return list(argv);
    if (verb === "create") return create(rest);
    if (verb === "quota") return quota(rest);
    if (verb === "rm") return remove(rest);
    throw new UsageError(`"${verb}" is none of create, quota, rm`);
  },
};

async function list(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, { json: { type: "boolean" } });
  exactly(positionals, 0, "");
  const projects = await Client.fromEnvironment().call("GET", "/v1/projects", Project.array());
  await out(
    values.json === true ? `${JSON.stringify(projects, null, 2)}\n` : projectsTable(projects),
  );
  return 0;
}

/** Pure. */
export function projectsTable(projects: Project[]): string {
  const show = (value: number | null): string => (value === null ? "none" : String(value));
  const rows = projects.map(({ id, name, quotas }) => [
    id,
    name,
    ...[quotas.machines, quotas.cpus, quotas.memory_mb, quotas.disk_mb].map(show),
  ]);
  return table(["ID", "NAME", "MACHINES", "CPUS", "MEMORY", "DISK"], rows);
}

function quotasOf(values: Partial<Record<keyof typeof QUOTAS, string>>) {
  const one = (flag: keyof typeof QUOTAS): number | null | undefined => {
    const text = values[flag];
    if (text === undefined) return undefined;
    return text === "none" ? null : integer(`--${flag}`, text, 0, 2 ** 31 - 1);
  };
  return {
    machines: one("machines"),
    cpus: one("cpus"),
    memory_mb: one("memory"),
    disk_mb: one("disk"),
  };
}

async function create(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, QUOTAS);
  const [name = ""] = exactly(positionals, 1, "NAME");
  const body = { name, quotas: quotasOf(values) };
  return show(await Client.fromEnvironment().call("POST", "/v1/projects", Project, { body }));
}

async function quota(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, QUOTAS);
  const [ref = ""] = exactly(positionals, 1, "PROJECT");
  if (Object.keys(values).length === 0) throw new UsageError("QUOTA is missing");
  const body = { quotas: quotasOf(values) };
  return show(await Client.fromEnvironment().call("PATCH", pathOf(ref), Project, { body }));
}

async function remove(argv: string[]): Promise<number> {
  const [ref = ""] = exactly(parse(argv, {}).positionals, 1, "PROJECT");
  return show(await Client.fromEnvironment().call("DELETE", pathOf(ref), Project));
}

const pathOf = (ref: string): string => `/v1/projects/${encodeURIComponent(ref)}`;

async function show(project: Project): Promise<number> {
  await out(`${project.id}\n`);
  return 0;
}
