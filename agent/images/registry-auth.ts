/** LEVERET_REGISTRY_AUTH_FILE: credentials of registries in the format of docker's config.json. */
import { fstatSync, openSync, readFileSync, closeSync } from "node:fs";
import { z } from "zod";
import { LvError } from "../../proto/errors.ts";
import type { RegistryConfig } from "./types.ts";

type Credentials = NonNullable<RegistryConfig["credentials"]>;

const FILE_MAX_BYTES = 1 << 20;
const AuthFile = z.object({
  auths: z.record(
    z.string(),
    z.object({
      auth: z.string().optional(),
      username: z.string().optional(),
      password: z.string().optional(),
      identitytoken: z.string().optional(),
    }),
  ),
});

/**
 * Credentials by registry host. Throws CONFIG_INVALID for a file that is missing, malformed or
 * open to anybody but its owner; no message holds what is in it.
 */
export function readAuthFile(path: string): Credentials {
  const parsed = AuthFile.safeParse(parse(readPrivate(path), path));
  if (!parsed.success) throw invalid(path, 'has no "auths" as docker writes them');
  const found: Credentials = {};
  for (const [key, entry] of Object.entries(parsed.data.auths)) {
    const host = hostOf(key);
    if (entry.identitytoken !== undefined)
      throw invalid(path, `has an identity token for "${host}"; use a user name and a password`);
    const { username, password } = decode(entry.auth) ?? entry;
    if (username === undefined || password === undefined)
      throw invalid(path, `has no user name and password for "${host}"`);
    found[host] = { username, password };
  }
  return found;
}

function readPrivate(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (cause) {
    throw invalid(path, "cannot be read", cause);
  }
  try {
    // Of the open file, not of the path: nobody can put another one in between.
    const { mode, size } = fstatSync(fd);
    if ((mode & 0o077) !== 0)
      throw invalid(
        path,
        `is open to others (mode 0${(mode & 0o777).toString(8)}); chmod it to 600`,
      );
    if (size > FILE_MAX_BYTES) throw invalid(path, `is ${size} bytes long`);
    return readFileSync(fd, "utf8");
  } finally {
    closeSync(fd);
  }
}

function parse(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's own message may quote a password.
    throw invalid(path, "is not JSON");
  }
}

function decode(auth: string | undefined): { username: string; password: string } | null {
  if (auth === undefined || auth === "") return null;
  const text = Buffer.from(auth, "base64").toString("utf8");
  const colon = text.indexOf(":");
  return colon < 1 ? null : { username: text.slice(0, colon), password: text.slice(colon + 1) };
}

/** docker's keys may be URLs, and Docker Hub's is one of its first API. */
function hostOf(key: string): string {
  const host = key.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  return host === "index.docker.io" || host === "registry-1.docker.io" ? "docker.io" : host;
}

function invalid(path: string, why: string, cause?: unknown): LvError {
  return new LvError("CONFIG_INVALID", `LEVERET_REGISTRY_AUTH_FILE="${path}": the file ${why}`, {
    cause,
  });
}
