import type { LogLine } from "../../proto/rest.ts";
import { Client } from "../client.ts";
import { exactly, parse, type Command } from "../command.ts";
import { err, out } from "../output.ts";

export const command: Command = {
  summary: "show what a machine's process printed",
  help: `usage: lev logs [-f] [--timestamps] MACHINE

  -f, --follow      go on until the machine's process has ended
  -t, --timestamps  an ISO time before each piece of output

Standard output and standard error arrive on their own streams, byte for byte.
MACHINE is an id, a name or the unique beginning of an id.
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      follow: { type: "boolean", short: "f" },
      timestamps: { type: "boolean", short: "t" },
    });
    const [ref = ""] = exactly(positionals, 1, "MACHINE");
    const client = Client.fromEnvironment();
    for await (const line of client.logs(ref, values.follow === true)) {
      if (values.timestamps === true)
        await (line.stream === "stdout" ? out : err)(`${new Date(line.time).toISOString()} `);
      await printLog(line);
    }
    return 0;
  },
};

/** The raw bytes, on the stream they came from; what the system says is not output. */
export async function printLog(line: LogLine): Promise<void> {
  const data = Buffer.from(line.data, "base64");
  switch (line.stream) {
    case "stdout":
      return out(data);
    case "stderr":
    case "system":
      return err(data);
    default: {
      const rest: never = line.stream;
      return rest;
    }
  }
}
