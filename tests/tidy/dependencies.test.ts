/** Not written here = forbidden. Type-only imports count too. */
import { expect, test } from "bun:test";
import { dirname, join, normalize } from "node:path";
import { importsOf, typeScriptSources } from "../kit/sources.ts";

/** The longest matching prefix speaks for a file. */
const MAY_IMPORT: Record<string, string[]> = {
  "lib/": ["lib/"],
  "proto/": ["proto/", "lib/"],
  "native/": ["native/", "lib/"],
  "cp/": ["cp/", "proto/", "lib/"],
  "cp/core/": ["cp/core/", "proto/", "lib/"],
  "cp/db/": ["cp/db/", "cp/core/", "proto/", "lib/"],
  "cp/ops/": ["cp/ops/", "cp/core/", "cp/db/", "proto/", "lib/"],
  "cp/http/": [
    "cp/http/",
    "cp/ops/",
    "cp/core/",
    "cp/db/",
    "cp/hub/",
    "cp/context.ts",
    "proto/",
    "lib/",
  ],
  "cp/hub/": ["cp/hub/", "cp/ops/", "cp/core/", "cp/db/", "cp/context.ts", "proto/", "lib/"],
  "agent/": ["agent/", "proto/", "lib/", "package.json"],
  "agent/link/": [
    "agent/link/",
    "agent/runtime/",
    "agent/context.ts",
    "agent/config.ts",
    "proto/",
    "lib/",
  ],
  "agent/runtime/": [
    "agent/runtime/",
    "agent/images/",
    "agent/kernel/",
    "agent/net/",
    "agent/config.ts",
    "proto/",
    "lib/",
  ],
  "agent/images/": ["agent/images/", "proto/", "lib/"],
  "agent/kernel/": ["agent/kernel/", "proto/", "lib/"],
  "agent/vmm/": ["agent/vmm/", "native/", "proto/", "lib/"],
  "cli/": ["cli/", "proto/", "lib/"],
};

/** Packages that come in through one door only. */
const DOORS: Record<string, string[]> = {
  "bun:ffi": ["native/ffi.ts", "lib/libc.ts"],
  "bun:sqlite": ["agent/runtime/", "cp/db/lock.ts"],
  "drizzle-orm": ["cp/db/", "drizzle.config.ts"],
  "drizzle-kit": ["drizzle.config.ts"],
  postgres: ["cp/db/"],
  hono: ["cp/http/"],
  "@hono/zod-openapi": ["cp/http/"],
  "@peculiar/x509": ["lib/x509.ts"],
  "@connectrpc/connect": ["cp/hub/", "agent/link/", "proto/errors.ts"],
  "@connectrpc/connect-node": ["cp/hub/", "agent/link/"],
};

function ruleFor(path: string): string[] | undefined {
  const prefix = Object.keys(MAY_IMPORT)
    .filter((key) => path.startsWith(key))
    .toSorted((a, b) => b.length - a.length)[0];
  return prefix === undefined ? undefined : MAY_IMPORT[prefix];
}

const isTest = (path: string): boolean => path.endsWith(".test.ts") || path.startsWith("tests/");

test("every import follows the dependency rules", () => {
  const broken: string[] = [];
  for (const source of typeScriptSources()) {
    const allowed = ruleFor(source.path);
    if (allowed === undefined || isTest(source.path)) continue;
    for (const specifier of importsOf(source)) {
      if (!specifier.startsWith(".")) continue;
      const target = normalize(join(dirname(source.path), specifier));
      if (!allowed.some((prefix) => target.startsWith(prefix)))
        broken.push(`${source.path} imports ${target}`);
    }
  }
  expect(broken).toEqual([]);
});

test("each guarded package is imported through its one door", () => {
  const broken: string[] = [];
  for (const source of typeScriptSources()) {
    if (isTest(source.path)) continue;
    for (const specifier of importsOf(source)) {
      const guarded = Object.keys(DOORS).find(
        (name) => specifier === name || specifier.startsWith(`${name}/`),
      );
      if (guarded === undefined) continue;
      if (!DOORS[guarded]?.some((door) => source.path.startsWith(door)))
        broken.push(`${source.path} imports ${specifier}`);
    }
  }
  expect(broken).toEqual([]);
});

test("the VMM process imports no library and no module of node's at run time", () => {
  const heavy: string[] = [];
  const seen = new Set<string>();
  const queue = ["agent/vmm/main.ts"];
  const sources = new Map(typeScriptSources().map((source) => [source.path, source]));
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    const source = sources.get(path);
    if (seen.has(path) || source === undefined) continue;
    seen.add(path);
    // `import type` is erased; what remains is loaded by every VMM process.
    const text = source.text.replaceAll(/^(?:import|export) type\b[^;]*;/gm, "");
    for (const specifier of importsOf({ path, text })) {
      if (specifier.startsWith(".")) queue.push(normalize(join(dirname(path), specifier)));
      else if (specifier !== "bun:ffi") heavy.push(`${path} imports ${specifier}`);
    }
  }
  expect(seen.size).toBeGreaterThan(3);
  expect(heavy).toEqual([]);
});
