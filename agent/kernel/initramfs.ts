/** The initramfs: init, the modules it loads and their order, and nothing else. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { gunzipSync } from "node:zlib";
import { writeCpio, type CpioEntry } from "./cpio.ts";
import { runXz } from "./image.ts";
import { moduleName, parseDepends, readModinfo, resolveModules } from "./modinfo.ts";

/** What init needs: devices by ACPI, the image's disk, the network, the channel, entropy. */
export const GUEST_MODULES = [
  "virtio_mmio",
  "vmw_vsock_virtio_transport",
  "virtio_blk",
  "virtio_net",
  "squashfs",
  "overlay",
  "virtio-rng",
  "virtio_balloon",
] as const;

/** What hvc0 needs, which init loads before them, and only when it is asked for. */
export const CONSOLE_MODULES = ["virtio_mmio", "virtio_console"] as const;

export type Module = { file: string; data: Uint8Array };

/**
 * /init, /dev/console (the kernel opens it for init), /modules with its two lists: `order`
 * for all guests, `console` for those with hvc0; what is on both is there once.
 */
export function buildInitramfs(
  init: Uint8Array,
  modules: readonly Module[],
  consoleModules: readonly Module[] = [],
): Uint8Array {
  const entries: CpioEntry[] = [
    { kind: "directory", path: "dev", mode: 0o755 },
    { kind: "device", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
    { kind: "file", path: "init", mode: 0o755, data: init },
  ];
  if (modules.length > 0) {
    const all = new Map([...modules, ...consoleModules].map(({ file, data }) => [file, data]));
    entries.push({ kind: "directory", path: "modules", mode: 0o755 });
    for (const [file, data] of all)
      entries.push({ kind: "file", path: `modules/${file}`, mode: 0o644, data });
    for (const [list, some] of Object.entries({ order: modules, console: consoleModules })) {
      const data = Buffer.from(some.map(({ file }) => `${file}\n`).join(""));
      entries.push({ kind: "file", path: `modules/${list}`, mode: 0o644, data });
    }
  }
  return writeCpio(entries);
}

/**
 * The modules `wanted` and what they depend on, unpacked, in load order, out of
 * a /lib/modules/<release> directory.
 */
export async function collectModules(
  modulesDir: string,
  wanted: readonly string[] = GUEST_MODULES,
): Promise<Module[]> {
  const files = new Map<string, string>();
  for (const path of readdirSync(modulesDir, { recursive: true, encoding: "utf8" }))
    if (/\.ko(\.(xz|zst|gz))?$/.test(path)) files.set(moduleName(path), path);
  const unpacked = new Map<string, Uint8Array>();
  const depends = new Map<string, string[]>();
  // The resolver is synchronous, so whatever may be asked for is read before.
  const queue = wanted.map((name) => name.replaceAll("-", "_"));
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    const path = files.get(name);
    if (path === undefined || unpacked.has(path)) continue;
    const data = await unpackModule(join(modulesDir, path));
    const needs = parseDepends(readModinfo(data, path));
    unpacked.set(path, data);
    depends.set(path, needs);
    queue.push(...needs);
  }
  const order = resolveModules(wanted, files, readBuiltin(modulesDir), (path) => {
    return depends.get(path) ?? [];
  });
  return order.map((path) => ({
    file: basename(path).replace(/\.(xz|zst|gz)$/, ""),
    data: unpacked.get(path) ?? new Uint8Array(0),
  }));
}

function readBuiltin(modulesDir: string): Set<string> {
  const path = join(modulesDir, "modules.builtin");
  if (!existsSync(path)) return new Set();
  return new Set(readFileSync(path, "utf8").split("\n").filter(Boolean).map(moduleName));
}

async function unpackModule(path: string): Promise<Uint8Array> {
  const data = readFileSync(path);
  if (path.endsWith(".xz")) return await runXz(data);
  if (path.endsWith(".zst")) return Bun.zstdDecompressSync(data);
  if (path.endsWith(".gz")) return gunzipSync(data);
  return data;
}
