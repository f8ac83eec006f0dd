/**
 * The lab's kernel and initramfs, made once per Debian kernel package and kept
 * under <cache>/lab/artifacts/<key>: `vmlinuz` as Debian ships it and
 * `initramfs.cpio` of busybox, init.sh and the modules. Published by a rename,
 * so that a killed build leaves nothing that is taken for one.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { mustRun, run } from "../setup/process.ts";
import { insertionOrder, LAB_MODULES } from "./modules.ts";

export type LabArtifacts = { kernelPath: string; initramfsPath: string };

const METAPACKAGE = "linux-image-amd64";
const BUSYBOX = "/bin/busybox";

/** Downloads (no install) and builds what is not cached. `labDir` = <cache>/lab. */
export async function prepareArtifacts(labDir: string): Promise<LabArtifacts> {
  const kernelPackage = await resolvePackage();
  const initScript = await readFile(join(import.meta.dirname, "init.sh"));
  const key = createHash("sha256")
    .update(kernelPackage.id)
    .update(initScript)
    .update(JSON.stringify(LAB_MODULES))
    .digest("hex")
    .slice(0, 16);
  const final = join(labDir, "artifacts", key);
  const artifacts = {
    kernelPath: join(final, "vmlinuz"),
    initramfsPath: join(final, "initramfs.cpio"),
  };
  if (existsSync(artifacts.kernelPath)) return artifacts;

  await mkdir(join(labDir, "artifacts"), { recursive: true });
  const work = await mkdtemp(join(labDir, "artifacts", ".build-"));
  try {
    await build(work, kernelPackage.name, initScript);
    const out = join(work, "out");
    // Another process may have published the same key meanwhile: then its copy serves.
    await rename(out, final).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return artifacts;
}

/** The real package behind Debian's metapackage, and a string that names its version. */
async function resolvePackage(): Promise<{ name: string; id: string }> {
  const depends = await run(["apt-cache", "depends", METAPACKAGE]);
  const name = /Depends: (linux-image-\S+)/.exec(depends.stdout)?.[1];
  if (name === undefined)
    throw new LvError(
      "TOOL_MISSING",
      `apt knows no ${METAPACKAGE}, which the lab's kernel comes from: run apt-get update`,
    );
  const show = await mustRun("look up the lab's kernel", [
    "apt-cache",
    "show",
    "--no-all-versions",
    name,
  ]);
  return { name, id: /^SHA256: (\w+)/m.exec(show)?.[1] ?? show };
}

async function build(work: string, name: string, initScript: Buffer): Promise<void> {
  await mustRun(`download ${name}`, ["apt-get", "download", "-q", name], { cwd: work });
  const deb = (await readdir(work)).find((file) => file.endsWith(".deb"));
  if (deb === undefined) throw new LvError("INTERNAL", `apt-get download left no ${name} package`);
  const tree = join(work, "tree");
  await mustRun(`unpack ${deb}`, ["dpkg-deb", "-x", join(work, deb), tree]);
  const [version] = await readdir(join(tree, "lib", "modules"));
  if (version === undefined) throw new LvError("INTERNAL", `${deb} has no kernel modules`);
  await mustRun("list module dependencies", ["busybox", "depmod", "-b", tree, version]);

  const out = join(work, "out");
  await mkdir(out);
  const modulesDir = join(tree, "lib", "modules", version);
  const modulesDep = await readFile(join(modulesDir, "modules.dep"), "utf8");
  await buildInitramfs(out, modulesDir, modulesDep, initScript);
  await copyFile(join(tree, "boot", `vmlinuz-${version}`), join(out, "vmlinuz"));
}

async function buildInitramfs(
  out: string,
  modulesDir: string,
  modulesDep: string,
  initScript: Buffer,
): Promise<void> {
  const root = join(out, "root");
  await mkdir(join(root, "modules"), { recursive: true });
  await mkdir(join(root, "bin"));
  await mkdir(join(root, "etc"));
  const files = ["bin", "etc", "modules", "init", "bin/busybox", "bin/sh", "modules/order"];
  await copyFile(BUSYBOX, join(root, "bin", "busybox"));
  // The script starts before `busybox --install` has made any link.
  await copyFile(BUSYBOX, join(root, "bin", "sh"));
  await writeFile(join(root, "init"), initScript);
  await chmod(join(root, "init"), 0o755);
  const order: string[] = [];
  for (const path of insertionOrder(modulesDep, LAB_MODULES)) {
    const file = path.slice(path.lastIndexOf("/") + 1);
    await copyFile(join(modulesDir, path), join(root, "modules", file));
    order.push(file);
    files.push(`modules/${file}`);
  }
  await writeFile(join(root, "modules", "order"), order.map((file) => `${file}\n`).join(""));
  const cpio = join(out, "initramfs.cpio");
  await mustRun(
    "write the lab's initramfs",
    ["busybox", "cpio", "-o", "-H", "newc", "-R", "0:0", "-F", cpio],
    { cwd: root, input: `${files.join("\n")}\n` },
  );
  await rm(root, { recursive: true });
}
