/**
 * Which modules a module needs, out of the module files themselves: the kernel
 * build writes `depends=a,b` into the ELF section .modinfo. Debian's package has no
 * modules.dep (its postinst makes that with depmod, which nobody has run on a
 * package that is only unpacked), so the files are the one source there is.
 */
import { LvError } from "../../proto/errors.ts";

const SECTION_NAME = ".modinfo";
const EHDR_BYTES = 64;
const SHDR_BYTES = 64;

/** A module file: its path relative to the package's modules, and a way to read it. */
export type ModuleFile = { name: string; path: string };

/** "kernel/drivers/char/virtio-rng.ko.xz" → "virtio_rng": the kernel takes - for _. */
export function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf("/") + 1);
  return file.replace(/\.ko(\.(xz|zst|gz))?$/, "").replaceAll("-", "_");
}

/** The key=value pairs of a module's .modinfo section. Throws KERNEL_INVALID. */
export function readModinfo(module: Uint8Array, path: string): Map<string, string> {
  const invalid = (why: string): LvError =>
    new LvError("KERNEL_INVALID", `${path} is not a kernel module: ${why}`);
  const view = new DataView(module.buffer, module.byteOffset, module.byteLength);
  if (module.length < EHDR_BYTES || view.getUint32(0, false) !== 0x7f454c46)
    throw invalid("it has no ELF header");
  const table = Number(view.getBigUint64(40, true));
  const size = view.getUint16(58, true);
  const count = view.getUint16(60, true);
  const names = view.getUint16(62, true);
  if (size !== SHDR_BYTES || table + count * SHDR_BYTES > module.length || names >= count)
    throw invalid("its section table lies outside the file");
  const section = (index: number): { name: number; data: Uint8Array } => {
    const at = table + index * SHDR_BYTES;
    const offset = Number(view.getBigUint64(at + 24, true));
    const length = Number(view.getBigUint64(at + 32, true));
    return { name: view.getUint32(at, true), data: module.subarray(offset, offset + length) };
  };
  const strings = Buffer.from(section(names).data).toString("latin1");
  for (let index = 0; index < count; index += 1) {
    const { name, data } = section(index);
    if (strings.startsWith(`${SECTION_NAME}\0`, name)) return parsePairs(data);
  }
  throw invalid(`it has no section ${SECTION_NAME}`);
}

function parsePairs(data: Uint8Array): Map<string, string> {
  const pairs = new Map<string, string>();
  for (const text of Buffer.from(data).toString("latin1").split("\0")) {
    const equals = text.indexOf("=");
    if (equals > 0) pairs.set(text.slice(0, equals), text.slice(equals + 1));
  }
  return pairs;
}

/**
 * The wanted modules and all they need, dependencies first, each once. A name that
 * has no file is left out when `builtin` has it, else KERNEL_INVALID.
 */
export function resolveModules(
  wanted: readonly string[],
  files: ReadonlyMap<string, string>,
  builtin: ReadonlySet<string>,
  depends: (path: string) => readonly string[],
): string[] {
  const order: string[] = [];
  const seen = new Set<string>();
  const visit = (name: string, neededBy: string): void => {
    if (seen.has(name)) return;
    seen.add(name);
    const path = files.get(name);
    if (path === undefined) {
      if (builtin.has(name)) return;
      throw new LvError(
        "KERNEL_INVALID",
        `The kernel has no module ${name}, needed by ${neededBy}`,
      );
    }
    for (const dependency of depends(path)) visit(dependency, name);
    order.push(path);
  };
  for (const name of wanted) visit(name.replaceAll("-", "_"), "the guest");
  return order;
}

/** `depends=` as names: "" is none. */
export function parseDepends(modinfo: ReadonlyMap<string, string>): string[] {
  return (modinfo.get("depends") ?? "")
    .split(",")
    .filter((name) => name !== "")
    .map((name) => name.replaceAll("-", "_"));
}
