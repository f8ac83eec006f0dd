/**
 * spec.json, checked by hand: a schema library would cost every machine memory.
 * The supervisor wrote it, so the checks guard against version skew and broken
 * files; each error names the field and what was found.
 */
import type { GuestProcess, VmmLimit, VmmNetwork, VmmSpec } from "../../proto/vmm.ts";
import { CPU_TEMPLATES, type CpuTemplate, VMM_EXIT } from "../../proto/vmm.ts";
import { LIMITS } from "../../lib/limits.ts";
import { VmmError } from "./errors.ts";

/** Of 16 devices; the rest are console, vsock, rng and balloon. */
export const DISKS_MAX = 10;
export const NETWORKS_MAX = 2;
const KERNEL_ARGS_MAX_LENGTH = 1_500;

type Fields = Record<string, unknown>;

function invalid(field: string, wanted: string, found: unknown): VmmError {
  const text = JSON.stringify(found) ?? "nothing";
  return new VmmError(
    "CONFIG_INVALID",
    VMM_EXIT.specInvalid,
    `spec.json: ${field} must be ${wanted}, not ${text.slice(0, 80)}`,
  );
}

function fieldsOf(value: unknown, field: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw invalid(field, "an object", value);
  // A parsed JSON object has string keys and unknown values.
  return value as Fields;
}

function integer(value: unknown, field: string, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max)
    throw invalid(field, `a whole number from ${min} to ${max}`, value);
  return value;
}

function text(value: unknown, field: string, maxLength = 4_096): string {
  if (typeof value !== "string" || value.length > maxLength || value.includes("\0"))
    throw invalid(field, `text of at most ${maxLength} characters without a NUL`, value);
  return value;
}

function path(value: unknown, field: string): string {
  const found = text(value, field);
  if (!found.startsWith("/")) throw invalid(field, "an absolute path", value);
  return found;
}

function flag(value: unknown, field: string): boolean {
  if (typeof value !== "boolean") throw invalid(field, "true or false", value);
  return value;
}

function list(value: unknown, field: string, max: number): unknown[] {
  if (!Array.isArray(value) || value.length > max)
    throw invalid(field, `a list of at most ${max}`, value);
  return value;
}

function texts(value: unknown, field: string, entries: number, bytes: number): string[] {
  const found = list(value, field, entries).map((item, i) => text(item, `${field}[${i}]`, bytes));
  const total = found.reduce((sum, item) => sum + Buffer.byteLength(item) + 1, 0);
  if (total > bytes) throw invalid(field, `at most ${bytes} bytes`, total);
  return found;
}

function process(value: unknown): GuestProcess {
  const from = fieldsOf(value, "process");
  const argv = texts(from["argv"], "process.argv", LIMITS.argvEntries, LIMITS.argvBytes);
  if (argv.length === 0) throw invalid("process.argv", "a list with the program first", argv);
  return {
    argv,
    env: texts(from["env"], "process.env", LIMITS.envEntries, LIMITS.envBytes),
    cwd: text(from["cwd"], "process.cwd"),
    user: text(from["user"], "process.user"),
    stopSignal: integer(from["stopSignal"], "process.stopSignal", 1, 64),
  };
}

function matching(value: unknown, field: string, pattern: RegExp, wanted: string): string {
  if (typeof value !== "string" || !pattern.test(value)) throw invalid(field, wanted, value);
  return value;
}

function limit(value: unknown, field: string): VmmLimit {
  const from = fieldsOf(value ?? {}, field);
  const amount = (name: string): number =>
    integer(from[name] ?? 0, `${field}.${name}`, 0, Number.MAX_SAFE_INTEGER);
  return {
    bytesRate: amount("bytesRate"),
    bytesBurst: amount("bytesBurst"),
    opsRate: amount("opsRate"),
    opsBurst: amount("opsBurst"),
  };
}

const ADDRESS = "(\\d{1,3}\\.){3}\\d{1,3}";

function network(value: unknown, field: string): VmmNetwork {
  const from = fieldsOf(value, field);
  const { kind } = from;
  if (kind !== "tap" && kind !== "passt") throw invalid(`${field}.kind`, '"tap" or "passt"', kind);
  const named = (name: string): string => `${field}.${name}`;
  return {
    kind,
    name:
      kind === "tap"
        ? matching(from["name"], named("name"), /^[\w.-]{1,15}$/, "an interface's name")
        : path(from["name"], named("name")),
    ...(from["fd"] === undefined ? {} : { fd: integer(from["fd"], named("fd"), 3, 4_095) }),
    mac: matching(from["mac"], named("mac"), /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/, "an address"),
    mtu: integer(from["mtu"], named("mtu"), 68, 65_535),
    address: matching(
      from["address"],
      named("address"),
      new RegExp(`^${ADDRESS}/\\d{1,2}$`),
      "an IPv4 address with its prefix",
    ),
    gateway: matching(
      from["gateway"],
      named("gateway"),
      new RegExp(`^${ADDRESS}$`),
      "an IPv4 address",
    ),
    rx: limit(from["rx"], named("rx")),
    tx: limit(from["tx"], named("tx")),
  };
}

function template(value: unknown): CpuTemplate {
  const found = CPU_TEMPLATES.find((name) => name === (value ?? "host"));
  if (found === undefined) throw invalid("cpuTemplate", CPU_TEMPLATES.join(" or "), value);
  return found;
}

function hugepages(value: unknown, memoryMib: unknown): boolean {
  const wanted = flag(value, "hugepages");
  if (wanted && Number(memoryMib) % 2 !== 0)
    throw invalid("memoryMib", "even, for pages of 2 MiB", memoryMib);
  return wanted;
}

/** Throws VmmError CONFIG_INVALID. Fields it does not know are ignored. */
export function parseSpec(json: string): VmmSpec {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch (error) {
    throw new VmmError(
      "CONFIG_INVALID",
      VMM_EXIT.specInvalid,
      `spec.json is not JSON: ${error instanceof Error ? error.message : ""}`,
      error,
    );
  }
  const from = fieldsOf(parsed, "the file");
  if (from["version"] !== 1) throw invalid("version", "1", from["version"]);
  const initrd = from["initrdPath"];
  const kernelArgs = text(from["kernelArgs"], "kernelArgs", KERNEL_ARGS_MAX_LENGTH);
  if (/[^\x20-\x7e]/.test(kernelArgs)) throw invalid("kernelArgs", "printable ASCII", kernelArgs);
  return {
    version: 1,
    machineId: text(from["machineId"], "machineId", 64),
    incarnation: integer(from["incarnation"], "incarnation", 0, Number.MAX_SAFE_INTEGER),
    cpus: integer(from["cpus"], "cpus", 1, LIMITS.cpusMax),
    cpuTemplate: template(from["cpuTemplate"]),
    memoryMib: integer(from["memoryMib"], "memoryMib", 1, LIMITS.memoryMaxMib),
    hugepages: hugepages(from["hugepages"] ?? false, from["memoryMib"]),
    kernelPath: path(from["kernelPath"], "kernelPath"),
    initrdPath: initrd === null ? null : path(initrd, "initrdPath"),
    kernelArgs,
    disks: list(from["disks"], "disks", DISKS_MAX).map((item, i) => {
      const disk = fieldsOf(item, `disks[${i}]`);
      return {
        path: path(disk["path"], `disks[${i}].path`),
        readOnly: flag(disk["readOnly"], `disks[${i}].readOnly`),
        id: text(disk["id"], `disks[${i}].id`, 20),
        limit: limit(disk["limit"], `disks[${i}].limit`),
      };
    }),
    networks: list(from["networks"] ?? [], "networks", NETWORKS_MAX).map((item, i) =>
      network(item, `networks[${i}]`),
    ),
    process: process(from["process"]),
    hostname: text(from["hostname"], "hostname", 64),
    resolvConf: text(from["resolvConf"] ?? "", "resolvConf"),
    outputLimitBytes: integer(from["outputLimitBytes"], "outputLimitBytes", 4_096, 2 ** 40),
    initTimeoutMs: integer(from["initTimeoutMs"], "initTimeoutMs", 1, 3_600_000),
  };
}
