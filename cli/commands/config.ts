/** Verbs that change what a machine is: update, metadata, lease. */
import { Lease, Machine, Metadata } from "../../proto/rest.ts";
import { Client, machinePath } from "../client.ts";
import { environment, exactly, integer, parse, UsageError, type Command } from "../command.ts";
import { err, out } from "../output.ts";

export const update: Command = {
  summary: "change a machine's config; it holds from the next start on",
  help: `usage: lev update [options] MACHINE

  --image REF        another image
  -e, --env K=V      set a variable; K= empties it, --unset-env K removes it
  --cpus N, -m, --memory MIB   only while the machine is at rest
  --restart POLICY   no, on-failure or always
  --config JSON      any part of the config, as RFC 7396 has it: null removes
  --if-version N     only when the machine is at this version
  --now              restart the machine, so that it holds at once
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      image: { type: "string" },
      env: { type: "string", short: "e", multiple: true },
      "unset-env": { type: "string", multiple: true },
      cpus: { type: "string" },
      memory: { type: "string", short: "m" },
      restart: { type: "string" },
      config: { type: "string" },
      "if-version": { type: "string" },
      now: { type: "boolean" },
    });
    const [ref = ""] = exactly(positionals, 1, "MACHINE");
    const size = (flag: "cpus" | "memory"): number | undefined =>
      values[flag] === undefined ? undefined : integer(`--${flag}`, values[flag], 1, 1 << 20);
    const unset = Object.fromEntries((values["unset-env"] ?? []).map((key) => [key, null]));
    const env = { ...environment(values.env ?? []), ...unset };
    const given = {
      image: values.image,
      guest: { cpus: size("cpus"), memory_mb: size("memory") },
      ...(Object.keys(env).length === 0 ? {} : { env }),
      ...(values.restart === undefined ? {} : { restart: { policy: values.restart } }),
      ...jsonOf(values.config),
    };
    const client = Client.fromEnvironment();
    const version = values["if-version"];
    const headers: Record<string, string> = version === undefined ? {} : { "if-match": version };
    const options = { body: { config: given }, headers };
    const machine = await client.call("PATCH", machinePath(ref), Machine, options);
    if (values.now === true)
      await client.call("POST", `${machinePath(machine.id)}/restart`, Machine, { body: {} });
    await out(`${machine.id}\n`);
    await err(`lev: ${machine.name} is at version ${machine.version}\n`);
    return 0;
  },
};

function jsonOf(text: string | undefined): Record<string, unknown> {
  if (text === undefined) return {};
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return { ...value };
  } catch {
    // Told below, as any other wrong value.
  }
  throw new UsageError(`--config "${text.slice(0, 80)}" is no JSON object`);
}

export const metadata: Command = {
  summary: "show, set and remove a machine's metadata",
  help: `usage: lev metadata MACHINE
       lev metadata MACHINE KEY=VALUE… | KEY-…

KEY=VALUE sets, KEY- removes; prints what is there then, as JSON.
`,
  run: async (argv) => {
    const [ref = "", ...changes] = parse(argv, {}).positionals;
    if (ref === "") throw new UsageError("MACHINE is missing");
    const client = Client.fromEnvironment();
    const path = `${machinePath(ref)}/metadata`;
    for (const change of changes) {
      const [, key = "", value] = /^([^=]+?)(?:=(.*)|-)$/s.exec(change) ?? [];
      if (key === "") throw new UsageError(`"${change}" is neither KEY=VALUE nor KEY-`);
      const at = `${path}/${encodeURIComponent(key)}`;
      if (value === undefined) await client.call("DELETE", at, Metadata);
      else await client.call("POST", at, Metadata, { body: { value } });
    }
    await out(`${JSON.stringify(await client.call("GET", path, Metadata), null, 2)}\n`);
    return 0;
  },
};

export const lease: Command = {
  summary: "keep others from changing a machine for a while",
  help: `usage: lev lease take [--ttl SECONDS] [--description TEXT] MACHINE
       lev lease show | release MACHINE

take prints the nonce. Whoever has it in LEVERET_LEASE_NONCE may change the machine,
renew the lease (take) and release it; everybody else waits for its end (60 s).
`,
  run: async (argv) => {
    const [verb, ...rest] = argv;
    if (verb !== "take" && verb !== "show" && verb !== "release")
      throw new UsageError("take, show or release is missing");
    const { values, positionals } = parse(rest, {
      ttl: { type: "string" },
      description: { type: "string" },
    });
    const [ref = ""] = exactly(positionals, 1, "MACHINE");
    const client = Client.fromEnvironment();
    const path = `${machinePath(ref)}/lease`;
    if (verb === "show") {
      await out(`${JSON.stringify(await client.call("GET", path, Lease), null, 2)}\n`);
    } else if (verb === "release") {
      await client.call("DELETE", path, Machine);
    } else {
      const body = {
        ...(values.ttl === undefined ? {} : { ttl: integer("--ttl", values.ttl, 1, 3_600) }),
        ...(values.description === undefined ? {} : { description: values.description }),
      };
      const { nonce = "", expires_at } = await client.call("POST", path, Lease, { body });
      await err(`lev: leased until ${expires_at}\n`);
      await out(`${nonce}\n`);
    }
    return 0;
  },
};
