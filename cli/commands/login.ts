import { LvError } from "../../proto/errors.ts";
import { Registry } from "../../proto/rest-images.ts";
import { Client } from "../client.ts";
import { exactly, parse, UsageError, type Command } from "../command.ts";
import { err, out } from "../output.ts";
import { age, table } from "../render.ts";

export const login: Command = {
  summary: "keep credentials for a registry",
  help: `usage: lev login [-u USER] [--password-stdin] REGISTRY
       lev login

The project's pulls from REGISTRY (ghcr.io, host:5000; docker.io for Docker Hub) use these
credentials from now on. The password is asked for without showing it, or read from
standard input; the control plane keeps it encrypted and gives it to nobody but the host
that pulls. It is tried at the next pull. Without REGISTRY: what is kept.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      username: { type: "string", short: "u" },
      "password-stdin": { type: "boolean" },
    });
    const client = Client.fromEnvironment();
    if (positionals.length === 0) {
      const all = await client.call("GET", "/v1/registries", Registry.array());
      const rows = all.map((one) => [one.registry, one.username, age(one.updated_at, Date.now())]);
      await out(table(["REGISTRY", "USER", "SINCE"], rows));
      return 0;
    }
    const [registry = ""] = exactly(positionals, 1, "REGISTRY");
    const fromStdin = values["password-stdin"] === true;
    if (fromStdin && values.username === undefined)
      throw new UsageError("--password-stdin needs -u USER");
    const username = values.username ?? (await ask("User: ", true));
    const password = fromStdin ? await whole() : await ask("Password: ", false);
    if (password === "") throw new LvError("BAD_REQUEST", "The password is empty");
    const body = { registry, username, password };
    const kept = await client.call("POST", "/v1/registries", Registry, { body });
    await err(`lev: ${kept.username} at ${kept.registry}\n`);
    return 0;
  },
};

export const logout: Command = {
  summary: "forget the credentials for a registry",
  help: `usage: lev logout REGISTRY
`,
  run: async (argv) => {
    const [registry = ""] = exactly(parse(argv, {}).positionals, 1, "REGISTRY");
    const path = `/v1/registries/${encodeURIComponent(registry)}`;
    const gone = await Client.fromEnvironment().call("DELETE", path, Registry);
    await err(`lev: ${gone.registry} is forgotten\n`);
    return 0;
  },
};

/** As docker: the line end after it does not belong to the password. */
async function whole(): Promise<string> {
  return (await Bun.stdin.text()).replace(/\r?\n$/, "");
}

const INTERRUPT = "\u0003";
const BACKSPACE = ["\u007f", "\b"];

/** One line from a person. Throws UsageError where there is none. */
async function ask(prompt: string, shown: boolean): Promise<string> {
  const { stdin } = process;
  if (!stdin.isTTY) throw new UsageError("no terminal to ask on: -u USER --password-stdin");
  await err(prompt);
  stdin.setRawMode(!shown);
  stdin.resume();
  try {
    let line = "";
    for await (const chunk of stdin)
      for (const char of String(chunk)) {
        if (char === "\n" || char === "\r") return shown ? line.trim() : line;
        if (char === INTERRUPT) throw new LvError("CANCELLED", "Interrupted");
        line = BACKSPACE.includes(char) ? line.slice(0, -1) : line + char;
      }
    return shown ? line.trim() : line;
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    if (!shown) await err("\n");
  }
}
