/**
 * bun agent/images/pack-main.ts --rootfs DIR --output LAYOUT [--entrypoint A]… [--cmd A]…
 *   [--env K=V]… [--user U] [--workdir D] [--stop-signal S] [--keep-owners]
 * Prints the digest of the image's manifest.
 */
import { parseArgs } from "node:util";
import { LvError } from "../../proto/errors.ts";
import { packRootfs } from "./pack.ts";

const USAGE =
  "usage: pack-main.ts --rootfs DIR --output LAYOUT [--entrypoint A]… [--cmd A]… [--env K=V]… [--user U] [--workdir D] [--stop-signal S] [--keep-owners]";

async function main(): Promise<number> {
  const many = { type: "string", multiple: true } as const;
  const one = { type: "string" } as const;
  const { values } = parseArgs({
    options: {
      rootfs: one,
      output: one,
      entrypoint: many,
      cmd: many,
      env: many,
      user: one,
      workdir: one,
      "stop-signal": one,
      "keep-owners": { type: "boolean" },
    },
  });
  const { rootfs, output } = values;
  if (rootfs === undefined || output === undefined) {
    process.stderr.write(`${USAGE}\n`);
    return 2;
  }
  const { digest } = await packRootfs(
    rootfs,
    output,
    {
      entrypoint: values.entrypoint ?? null,
      cmd: values.cmd ?? null,
      ...(values.env === undefined ? {} : { env: values.env }),
      ...(values.user === undefined ? {} : { user: values.user }),
      ...(values.workdir === undefined ? {} : { workingDir: values.workdir }),
      ...(values["stop-signal"] === undefined ? {} : { stopSignal: values["stop-signal"] }),
    },
    { keepOwners: values["keep-owners"] === true },
  );
  process.stdout.write(`${digest}\n`);
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  const text = error instanceof LvError || error instanceof TypeError ? error.message : undefined;
  process.stderr.write(`pack: ${text ?? String(error)}\n`);
  process.exitCode = 1;
}
