/**
 * bun agent/images/load-main.ts [--dir AGENT_DIR] [--tag NAME] FILE
 * Brings an OCI layout directory, an oci-archive or a docker-archive into the image store of the
 * agent on this host and prints the reference to run it by. The agent may be running.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { systemClock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { loadImage } from "./load.ts";

const USAGE = "usage: load-main.ts [--dir AGENT_DIR] [--tag NAME] FILE\n";

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: { dir: { type: "string" }, tag: { type: "string" } },
    allowPositionals: true,
  });
  const [path, ...more] = positionals;
  if (path === undefined || more.length > 0) {
    process.stderr.write(USAGE);
    return 64;
  }
  const dir = values.dir ?? process.env["LEVERET_AGENT_DIR"] ?? "/var/lib/leveret/agent";
  const { reference } = await loadImage(path, join(dir, "blobs"), systemClock, values.tag ?? null);
  process.stdout.write(`${reference}\n`);
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  const text =
    error instanceof LvError || error instanceof TypeError ? error.message : String(error);
  process.stderr.write(`load: ${text}\n`);
  process.exitCode = 1;
}
