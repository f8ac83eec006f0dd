/**
 * Which token `lev` sends where. In order: LEVERET_TOKEN; what a quickstart of ours
 * has remembered for that very address; the file a control plane on this machine
 * has written, for loopback addresses only, since a token is not to travel to
 * whoever LEVERET_URL names.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "./paths.ts";

/** Null when there is none: the control plane then says what is missing. */
export function tokenFor(url: string, env: NodeJS.ProcessEnv = process.env): string | null {
  const given = env["LEVERET_TOKEN"] ?? "";
  if (given !== "") return given;
  return readToken(fileFor(url, env)) ?? localToken(url, env);
}

/** For other `lev` calls of this user, until `forgetToken`. */
export function rememberToken(url: string, token: string): void {
  const file = fileFor(url, process.env);
  mkdirSync(join(file, ".."), { recursive: true, mode: 0o700 });
  writeFileSync(file, `${token}\n`, { mode: 0o600 });
}

export function forgetToken(url: string): void {
  rmSync(fileFor(url, process.env), { force: true });
}

/** The admin token that a control plane has written into its directory. */
export function adminToken(cpDir: string): string | null {
  return readToken(join(cpDir, "admin-token"));
}

function localToken(url: string, env: NodeJS.ProcessEnv): string | null {
  const { hostname } = new URL(url);
  if (!["127.0.0.1", "localhost", "[::1]"].includes(hostname)) return null;
  const directory = env["LEVERET_CP_DIR"] ?? "";
  return adminToken(directory === "" ? "/var/lib/leveret/cp" : directory);
}

function fileFor(url: string, env: NodeJS.ProcessEnv): string {
  return join(cacheDir(env), "tokens", new URL(url).host.replace(/[^A-Za-z0-9.-]/g, "_"));
}

function readToken(file: string): string | null {
  try {
    const text = readFileSync(file, "utf8").trim();
    return text === "" ? null : text;
  } catch {
    return null; // not there, or not for us
  }
}
