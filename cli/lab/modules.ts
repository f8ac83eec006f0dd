/** Which kernel modules the lab inserts, in which order, from depmod's own list. */

/** What the lab needs; their dependencies come from modules.dep. */
export const LAB_MODULES = [
  "virtio_pci",
  "virtio_blk",
  "virtio_net",
  "virtio-rng",
  "9pnet_virtio",
  "9p",
  // ext4 asks the crypto API for crc32c at mount time, which modules.dep cannot say.
  "crc32c_generic",
  "ext4",
  "overlay",
  "squashfs",
  "loop",
  "tun",
  "kvm-amd",
];

/**
 * Dependencies first, each once. `modulesDep` is "path.ko: dep.ko dep.ko" a line,
 * a module's dependencies listed so that the last is inserted first.
 * Throws when a root is not there: the list above names loadable modules only.
 */
export function insertionOrder(modulesDep: string, roots: string[]): string[] {
  const dependencies = new Map<string, string[]>();
  const byName = new Map<string, string>();
  for (const line of modulesDep.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 0) continue;
    const path = line.slice(0, colon);
    dependencies.set(
      path,
      line
        .slice(colon + 1)
        .split(" ")
        .filter(Boolean),
    );
    byName.set(moduleName(path), path);
  }
  const order: string[] = [];
  const seen = new Set<string>();
  const visit = (path: string): void => {
    if (seen.has(path)) return;
    seen.add(path);
    for (const dependency of (dependencies.get(path) ?? []).toReversed()) visit(dependency);
    order.push(path);
  };
  for (const root of roots) {
    const path = byName.get(moduleName(root));
    if (path === undefined) throw new Error(`The lab's kernel has no module ${root}`);
    visit(path);
  }
  return order;
}

/** "kernel/x/virtio-rng.ko.xz" and "virtio_rng" are the same module. */
function moduleName(path: string): string {
  const file = path.slice(path.lastIndexOf("/") + 1);
  return file.replace(/\.ko(\.\w+)?$/, "").replaceAll("-", "_");
}
