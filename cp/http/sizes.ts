/** What the schemas of a request cannot say. */
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import type { MachineConfig } from "../../proto/rest.ts";

/** Bounds over several fields, which the schema cannot say. */
export function checkSize(config: MachineConfig): void {
  const entries = Object.entries(config.env);
  const envBytes = entries.reduce((sum, [k, v]) => sum + Buffer.byteLength(k + v) + 2, 0);
  if (entries.length > LIMITS.envEntries)
    throw new LvError("BAD_REQUEST", `config.env: more than ${LIMITS.envEntries} entries`);
  if (envBytes > LIMITS.envBytes)
    throw new LvError("BAD_REQUEST", `config.env: more than ${LIMITS.envBytes} bytes`);
  const argv = [...(config.init.entrypoint ?? []), ...(config.init.cmd ?? [])];
  const argvBytes = argv.reduce((sum, word) => sum + Buffer.byteLength(word) + 1, 0);
  if (argvBytes > LIMITS.argvBytes)
    throw new LvError("BAD_REQUEST", `config.init: more than ${LIMITS.argvBytes} bytes`);
}
