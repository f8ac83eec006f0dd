/** Where things are: the checkout this file belongs to, the cache, the Bun that runs us. */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { z } from "zod";
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

const PackageJson = z.object({ version: z.string(), dependencies: z.object({ bun: z.string() }) });

/** Our own version and the Bun that is pinned beside it. */
export function versions(): { leveret: string; bun: string } {
  const text = readFileSync(join(CHECKOUT, "package.json"), "utf8");
  const { version, dependencies } = PackageJson.parse(JSON.parse(text));
  return { leveret: version, bun: dependencies.bun };
}
