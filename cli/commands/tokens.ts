import { CreatedToken, SCOPES, Token } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { exactly, integer, parse, UsageError, type Command } from "../command.ts";
import { err, out } from "../output.ts";
import { age, table } from "../render.ts";

const TEN_YEARS_S = 10 * 365 * 86_400;

export const command: Command = {
  summary: "list, make and revoke API tokens",
  help: `usage: lev tokens [--json]
       lev tokens create [--scope read|write|admin] [--fleet] [--expires SECONDS] NAME
       lev tokens revoke TOKEN-ID

create prints the token once, on standard output. Its scope is write unless it is
said otherwise; it belongs to the project (LEVERET_PROJECT), or with --fleet to
every project and the hosts.
`,
  run: async (argv) => {
    const [verb, ...rest] = argv;
    if (verb === undefined || verb.startsWith("-")) return list(argv);
    if (verb === "create") return create(rest);
    if (verb === "revoke") return revoke(rest);
    throw new UsageError(`"${verb}" is none of create, revoke`);
  },
};

async function list(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, { json: { type: "boolean" } });
  exactly(positionals, 0, "");
  const tokens = await Client.fromEnvironment().call("GET", "/v1/tokens", Token.array());
  const text =
    values.json === true ? `${JSON.stringify(tokens, null, 2)}\n` : tokensTable(tokens, Date.now());
  await out(text);
  return 0;
}

/** Pure. */
export function tokensTable(tokens: Token[], now: number): string {
  const rows = tokens.map((token) => [
    token.id,
    token.name,
    token.scope,
    token.project_id ?? "fleet",
    stateOf(token, now),
    age(token.last_used_at, now),
    age(token.created_at, now),
  ]);
  return table(["ID", "NAME", "SCOPE", "PROJECT", "STATE", "USED", "AGE"], rows);
}

function stateOf(token: Token, now: number): string {
  if (token.revoked_at !== null) return "revoked";
  if (token.expires_at === null) return "good";
  return Date.parse(token.expires_at) <= now ? "expired" : `until ${token.expires_at}`;
}

async function create(argv: string[]): Promise<number> {
  const { values, positionals } = parse(argv, {
    scope: { type: "string" },
    fleet: { type: "boolean" },
    expires: { type: "string" },
  });
  const [name = ""] = exactly(positionals, 1, "NAME");
  const scope = SCOPES.find((known) => known === (values.scope ?? "write"));
  if (scope === undefined)
    throw new UsageError(`--scope "${values.scope ?? ""}" is none of ${SCOPES.join(", ")}`);
  const body = {
    name,
    scope,
    fleet: values.fleet === true,
    ...(values.expires === undefined
      ? {}
      : { expires_in: integer("--expires", values.expires, 1, TEN_YEARS_S) }),
  };
  const made = await Client.fromEnvironment().call("POST", "/v1/tokens", CreatedToken, { body });
  await err(`lev: ${made.id}, scope ${made.scope}; it is shown this once\n`);
  await out(`${made.token}\n`);
  return 0;
}

async function revoke(argv: string[]): Promise<number> {
  const [id = ""] = exactly(parse(argv, {}).positionals, 1, "TOKEN-ID");
  const path = `/v1/tokens/${encodeURIComponent(id)}`;
  await out(`${(await Client.fromEnvironment().call("DELETE", path, Token)).id}\n`);
  return 0;
}
