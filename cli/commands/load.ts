/** `lev load`: a file, a directory (through tar) or standard input, streamed as it is read. */
import { stat } from "node:fs/promises";
import { LvError } from "../../proto/errors.ts";
import { LoadedImage } from "../../proto/rest-images.ts";
import { Client } from "../client.ts";
import { exactly, parse, type Command } from "../command.ts";
import { err, out } from "../output.ts";

export const command: Command = {
  summary: "bring an image from a file to a host",
  help: `usage: lev load [--host HOST] [--tag NAME] FILE

FILE is what \`docker save\` or \`podman save\` writes, an oci-archive, either of them
compressed (gzip, zstd), the directory of an OCI layout, or - for standard input.
Without --host it goes to every host that takes machines. Prints the reference to run it
by. A loaded image cannot be pulled again: it is kept for a day, and for good with
\`lev image pin\`.

  --tag NAME  which image, when there are several in FILE
`,
  run: async (argv) => {
    const { values, positionals } = parse(argv, {
      host: { type: "string" },
      tag: { type: "string" },
    });
    const [file = ""] = exactly(positionals, 1, "FILE");
    const query = new URLSearchParams(
      Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined),
    );
    const client = Client.fromEnvironment();
    await using source = await open(file);
    const path = `/v1/images/load?${query.toString()}`;
    const loaded = await client.upload(path, LoadedImage.array(), source.stream);
    await source.finished();
    for (const one of loaded)
      if (one.error_reason !== null)
        await err(`lev: ${one.error_reason}: ${one.error_message ?? ""} (${one.host_name})\n`);
    const names = new Set(loaded.flatMap(({ reference }) => reference ?? []));
    for (const name of names) await out(`${name}\n`);
    return loaded.some(({ error_reason: reason }) => reason !== null) ? 1 : 0;
  },
};

type Source = AsyncDisposable & {
  stream: ReadableStream<Uint8Array>;
  /** Throws when what was sent is not all there was to send. */
  finished(): Promise<void>;
};

async function open(file: string): Promise<Source> {
  const nothing = {
    finished: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  if (file === "-") return { stream: Bun.stdin.stream(), ...nothing };
  const stats = await stat(file).catch((cause: unknown) => {
    throw new LvError("BAD_REQUEST", `Cannot read "${file}"`, { cause });
  });
  if (!stats.isDirectory()) return { stream: Bun.file(file).stream(), ...nothing };
  const child = Bun.spawn(["tar", "-cf", "-", "-C", file, "."], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  return {
    stream: child.stdout,
    finished: async () => {
      const code = await child.exited;
      if (code !== 0)
        throw new LvError("BAD_REQUEST", `tar could not read all of "${file}" (${code})`);
    },
    [Symbol.asyncDispose]: async () => {
      child.kill();
      await child.exited;
    },
  };
}
