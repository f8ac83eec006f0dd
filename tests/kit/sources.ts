/** The project's own source files, for the tests that hold its rules. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./suite.ts";

export type Source = { path: string; text: string };

/** Paths that git tracks or would track, relative to the root, in order. */
export function projectFiles(): string[] {
  const listed = Bun.spawnSync(["git", "ls-files", "-co", "--exclude-standard"], { cwd: ROOT });
  if (listed.exitCode !== 0) throw new Error(`git ls-files failed: ${listed.stderr.toString()}`);
  return listed.stdout
    .toString()
    .split("\n")
    .filter((path) => path !== "" && Bun.file(join(ROOT, path)).size > 0)
    .toSorted();
}

export function readSource(path: string): Source {
  return { path, text: readFileSync(join(ROOT, path), "utf8") };
}

/** TypeScript that people wrote: no generated files. */
export function typeScriptSources(): Source[] {
  return projectFiles()
    .filter((path) => path.endsWith(".ts") && !path.startsWith("proto/gen/"))
    .map(readSource);
}

/** The module specifiers a file imports or re-exports, types too. */
export function importsOf(source: Source): string[] {
  // Only names, braces and commas may stand before the specifier, so that a string in an
  // exported value is not taken for one.
  const pattern =
    /^(?:import|export)\s+(?:type\s+)?(?:[\w$*\s{},]+?\s+from\s+)?["']([^"'\n]+)["']/gm;
  const dynamic = /\bimport\(\s*["']([^"']+)["']/g;
  return [...source.text.matchAll(pattern), ...source.text.matchAll(dynamic)].map(
    (match) => match[1] ?? "",
  );
}
