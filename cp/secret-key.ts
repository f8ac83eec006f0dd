/**
 * The key that secrets in the database are sealed with. From the environment, for
 * replicas on several machines; else from a file that the first start makes.
 */
import { randomBytes } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LvError } from "../proto/errors.ts";

const FILE = "secret.key";
const FORM = /^[0-9a-f]{64}$/;

/** 32 bytes. Throws CONFIG_INVALID. */
export function loadSecretKey(config: { secretKey: string | null; dataDir: string }): Uint8Array {
  return new Uint8Array(Buffer.from(config.secretKey ?? fromFile(config.dataDir), "hex"));
}

function fromFile(directory: string): string {
  const path = join(directory, FILE);
  const text = (read(path) ?? make(directory, path)).trim();
  if (!FORM.test(text))
    throw new LvError("CONFIG_INVALID", `"${path}" is not a key: expected 64 hexadecimal digits`);
  return text;
}

function read(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw unusable(path, error);
  }
}

/** Linked to its name when it is complete; whoever comes second takes the first one's. */
function make(directory: string, path: string): string {
  const draft = `${path}.${process.pid}`;
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    writeFileSync(draft, `${randomBytes(32).toString("hex")}\n`, { mode: 0o600, flush: true });
    linkSync(draft, path);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST"))
      throw unusable(path, error);
  } finally {
    rmSync(draft, { force: true });
  }
  return readFileSync(path, "utf8");
}

function unusable(path: string, error: unknown): LvError {
  const why = error instanceof Error ? error.message : String(error);
  return new LvError("CONFIG_INVALID", `Cannot keep the secret key in "${path}": ${why}`, {
    cause: error,
  });
}
