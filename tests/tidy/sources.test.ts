import { expect, test } from "bun:test";
import { projectFiles, readSource, typeScriptSources } from "../kit/sources.ts";

const CODE = /\.(ts|c|h|S)$/;

test("no source file is longer than 500 lines", () => {
  const long = projectFiles()
    .filter((path) => CODE.test(path) && !/^proto\/gen\/|abi\.gen\.ts$/.test(path))
    .map((path) => ({ path, lines: readSource(path).text.split("\n").length }))
    .filter(({ lines }) => lines > 500)
    .map(({ path, lines }) => `${path}: ${lines}`);
  expect(long).toEqual([]);
});

test("no file names a path of a developer's machine", () => {
  const pattern = new RegExp(["/wo" + "rk/", "/ro" + "ot/", "regis" + "try=http"].join("|"));
  const named = projectFiles()
    .filter((path) => !path.endsWith(".png"))
    .map(readSource)
    .filter((source) => pattern.test(source.text))
    .map((source) => source.path);
  expect(named).toEqual([]);
});

test("no work is left as a note in the code", () => {
  const pattern = new RegExp(["TO" + "DO", "FIX" + "ME", "XX" + "X:"].join("|"));
  const left = projectFiles()
    .filter((path) => CODE.test(path) && !path.startsWith("proto/gen/"))
    .map(readSource)
    .filter((source) => pattern.test(source.text))
    .map((source) => source.path);
  expect(left).toEqual([]);
});

test("file names are kebab-case in TypeScript and snake_case in C", () => {
  const odd = projectFiles().filter((path) => {
    const name = path.split("/").at(-1) ?? "";
    if (path.startsWith("proto/gen/") || name.startsWith(".")) return false;
    if (name.endsWith(".ts"))
      return !/^[a-z0-9]+(?:-[a-z0-9]+)*(?:\.(?:test|gen|config))*\.ts$/.test(name);
    if (/\.[ch]$/.test(name)) return !/^[a-z0-9]+(?:_[a-z0-9]+)*\.[ch]$/.test(name);
    return false;
  });
  expect(odd).toEqual([]);
});

test("no test waits for time or retries", () => {
  const sleeping = typeScriptSources()
    .filter((source) => source.path.endsWith(".test.ts") && !source.path.startsWith("tests/tidy/"))
    .filter((source) => /Bun\.sleep\(\s*[\d_]{4,}|retry:\s*\d/.test(source.text))
    .map((source) => source.path);
  expect(sleeping).toEqual([]);
});

test("dependency versions are pinned exactly", () => {
  const manifest: unknown = JSON.parse(readSource("package.json").text);
  const versions = Object.entries(manifest as Record<string, unknown>)
    .filter(([key]) => /dependencies$/i.test(key))
    .flatMap(([, value]) => Object.values(value as Record<string, string>));
  expect(versions.length).toBeGreaterThan(5);
  expect(versions.filter((version) => !/^\d+\.\d+\.\d+(?:-[\w.]+)?$/.test(version))).toEqual([]);
});
