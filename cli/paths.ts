/** Where things are: the checkout this file belongs to, the cache, the Bun that runs us. */
import { homedir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { LvError } from "../proto/errors.ts";

export const CHECKOUT = dirname(import.meta.dirname);
export const BUN = process.execPath;

/** LEVERET_CACHE_DIR, else ~/.cache/leveret. Throws CONFIG_INVALID on a relative path. */
export function cacheDir(env: NodeJS.ProcessEnv = process.env): string {
  const set = env["LEVERET_CACHE_DIR"] ?? "";
  if (set === "") return join(homedir(), ".cache", "leveret");
  if (!isAbsolute(set))
    throw new LvError("CONFIG_INVALID", `LEVERET_CACHE_DIR "${set}" is not an absolute path`);
  return set;
}
