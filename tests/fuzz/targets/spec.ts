/**
 * spec.json: CONFIG_INVALID with a message, or a spec that is the same when it is read
 * again and whose texts are what the boot code takes them for.
 */
import { VmmError } from "../../../agent/vmm/errors.ts";
import { parseSpec } from "../../../agent/vmm/spec.ts";
import { LIMITS } from "../../../lib/limits.ts";
import type { VmmSpec } from "../../../proto/vmm.ts";
import type { FuzzTarget } from "../engine.ts";
import { must } from "../must.ts";

const decoder = new TextDecoder();

function checkSpec(spec: VmmSpec): void {
  const paths = [spec.kernelPath, spec.initrdPath ?? "/", ...spec.disks.map(({ path }) => path)];
  for (const path of paths) must(path.startsWith("/") && !path.includes("\0"), "a bad path");
  must(/^[\x20-\x7e]*$/.test(spec.kernelArgs), "arguments that are no text");
  must(spec.cpus >= 1 && spec.cpus <= LIMITS.cpusMax, "a wrong number of CPUs");
  must(spec.memoryMib >= 1 && spec.memoryMib <= LIMITS.memoryMaxMib, "a wrong amount of memory");
  must(spec.process.argv.length > 0, "a process without a program");
  for (const disk of spec.disks) must(disk.id.length <= 20, "an id too long for its register");
}

function fuzz(data: Uint8Array): string {
  let spec: VmmSpec;
  try {
    spec = parseSpec(decoder.decode(data));
  } catch (error) {
    if (!(error instanceof VmmError) || error.reason !== "CONFIG_INVALID") throw error;
    must(error.message.length < 1_000, "an endless message");
    // What was found is the input's own, and so is where its JSON breaks.
    if (error.message.includes("not JSON")) return "no JSON";
    return error.message.split(", not ")[0] ?? "";
  }
  checkSpec(spec);
  const text = JSON.stringify(spec);
  must(JSON.stringify(parseSpec(text)) === text, "another spec when it is read again");
  return `good ${spec.disks.length} ${"n".repeat(spec.networks.length)}`;
}

const words = ["/", "\\u0000", "}", "]", '"tap"', "1e99", "02:00:00:00:00:01"].map((word) =>
  new TextEncoder().encode(word),
);

export const target: FuzzTarget = { fuzz, json: true, words };
