import { expect, test } from "bun:test";
import { projectFiles, readSource } from "../kit/sources.ts";

const SHIM_MAX_LINES = 4_000;
const FILE_MAX_LINES = 500;

/** What may look like a comment and is none comes first. */
const TOKEN = /"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g;

/** Lines that hold more than blanks and comments. */
function linesOfCode(text: string): number {
  const bare = text.replace(TOKEN, (token) =>
    token.startsWith("/") ? token.replace(/[^\n]/g, " ") : token,
  );
  return bare.split("\n").filter((line) => line.trim() !== "").length;
}

const shim = projectFiles()
  .filter((path) => /^native\/src\/[^/]+\.[ch]$/.test(path))
  .map((path) => ({ path, text: readSource(path).text }));

test("only lines with code in them count", () => {
  const text = [
    "/* a comment",
    " * of two lines */",
    "",
    "int one; /* and why */",
    'const char *two = "/*";',
    "// nothing",
    "\t/* nothing */",
    "int three; /* begins here",
    "and ends */ int four;",
  ].join("\n");
  expect(linesOfCode(text)).toBe(4);
});

test("the C shim is under 4,000 lines of code", () => {
  const total = shim.reduce((sum, { text }) => sum + linesOfCode(text), 0);
  expect(shim.length).toBeGreaterThan(20);
  expect(total).toBeLessThan(SHIM_MAX_LINES);
});

test("no file of the C shim is over 500 lines", () => {
  const long = shim
    .map(({ path, text }) => ({ path, lines: text.trimEnd().split("\n").length }))
    .filter(({ lines }) => lines > FILE_MAX_LINES);
  expect(long).toEqual([]);
});
