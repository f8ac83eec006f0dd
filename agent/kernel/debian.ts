/**
 * Debian's kernel package, fetched and unpacked but not installed: apt knows
 * where the file lives and vouches for its digest, dpkg-deb unpacks it.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync, readdirSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";

const METAPACKAGE = "linux-image-cloud-amd64";

export type DebianPackage = { name: string; version: string; sha256: string; bytes: number };
export type Progress = (line: string) => void;

type Output = { code: number; out: string; err: string };

async function run(argv: string[], cwd?: string): Promise<Output> {
  const tool = argv[0] ?? "";
  if (Bun.which(tool) === null)
    throw new LvError("TOOL_MISSING", `Cannot fetch the guest kernel: ${tool} is not installed`);
  const child = Bun.spawn(argv, {
    ...(cwd === undefined ? {} : { cwd }),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, LC_ALL: "C", DEBIAN_FRONTEND: "noninteractive" },
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}

async function mustRun(argv: string[], doing: string, cwd?: string): Promise<string> {
  const { code, out, err } = await run(argv, cwd);
  if (code === 0) return out;
  const why = err.trim().split("\n").at(-1) ?? "";
  throw new LvError(
    "KERNEL_NOT_FOUND",
    `Cannot ${doing}: ${argv[0]}: ${why || `exit code ${code}`}`,
  );
}

/** The first stanza that `apt-cache show` prints, which is the newest version. */
async function show(name: string): Promise<Map<string, string> | null> {
  const { code, out } = await run(["apt-cache", "show", "--no-all-versions", name]);
  return code === 0 && out.trim() !== "" ? parseStanza(out) : null;
}

/** Fields of a control stanza, first lines only. */
export function parseStanza(text: string): Map<string, string> {
  const fields = new Map<string, string>();
  for (const line of (text.split("\n\n")[0] ?? "").split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0 && !line.startsWith(" "))
      fields.set(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  return fields;
}

/** The kernel that the metapackage stands for now, from apt's lists on this machine. */
export async function resolveDebianKernel(progress: Progress): Promise<DebianPackage> {
  let meta = await show(METAPACKAGE);
  if (meta === null && process.getuid?.() === 0) {
    progress("apt has no package lists: updating them");
    await mustRun(["apt-get", "update", "-q"], "update apt's package lists");
    meta = await show(METAPACKAGE);
  }
  if (meta === null)
    throw new LvError(
      "KERNEL_NOT_FOUND",
      `apt knows no package ${METAPACKAGE}: run apt-get update on a Debian for amd64`,
    );
  const name = /\b(linux-image-[a-z0-9.+-]+)/.exec(meta.get("Depends") ?? "")?.[1];
  const stanza = name === undefined ? null : await show(name);
  const version = stanza?.get("Version");
  const sha256 = stanza?.get("SHA256");
  if (name === undefined || version === undefined || sha256 === undefined)
    throw new LvError(
      "KERNEL_NOT_FOUND",
      `apt does not say which kernel ${METAPACKAGE} stands for`,
    );
  return { name, version, sha256, bytes: Number(stanza?.get("Size") ?? 0) };
}

/** Downloads into `directory` under the digest's name, checked; returns the path. */
export async function downloadDebianPackage(
  debian: DebianPackage,
  directory: string,
  progress: Progress,
): Promise<string> {
  const final = join(directory, `${debian.sha256}.deb`);
  if (existsSync(final)) return final;
  const temporary = join(directory, `.tmp-${process.pid}-${debian.sha256.slice(0, 16)}`);
  await mkdir(temporary, { recursive: true });
  try {
    const mib = (debian.bytes / 2 ** 20).toFixed(1);
    progress(`downloading ${debian.name} ${debian.version} (${mib} MiB)`);
    const wanted = `${debian.name}=${debian.version}`;
    // apt's own user may not be allowed into the cache directory.
    const argv = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", wanted];
    await mustRun(argv, `download ${wanted}`, temporary);
    const file = readdirSync(temporary).find((name) => name.endsWith(".deb"));
    if (file === undefined)
      throw new LvError("KERNEL_NOT_FOUND", `apt-get download left no file for ${wanted}`);
    const actual = await sha256OfFile(join(temporary, file));
    if (actual !== debian.sha256)
      throw new LvError(
        "KERNEL_INVALID",
        `${file} has SHA-256 ${actual}, but apt's lists say ${debian.sha256}`,
      );
    await rename(join(temporary, file), final);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return final;
}

export type UnpackedKernel = { vmlinuz: string; modulesDir: string };

/** dpkg-deb -x, then where the parts are. */
export async function unpackDebianKernel(deb: string, into: string): Promise<UnpackedKernel> {
  await mustRun(["dpkg-deb", "-x", deb, into], `unpack ${deb}`);
  const boot = join(into, "boot");
  const vmlinuz = existsSync(boot)
    ? readdirSync(boot).find((name) => name.startsWith("vmlinuz-"))
    : undefined;
  // A merged-/usr package has its modules under usr/lib.
  const modules = [join(into, "lib/modules"), join(into, "usr/lib/modules")].find(existsSync);
  const release = modules === undefined ? undefined : readdirSync(modules)[0];
  if (vmlinuz === undefined || modules === undefined || release === undefined)
    throw new LvError("KERNEL_INVALID", `${deb} is not a kernel: no vmlinuz and modules in it`);
  return { vmlinuz: join(boot, vmlinuz), modulesDir: join(modules, release) };
}

export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
    hash.update(chunk as Buffer);
  return hash.digest("hex");
}
