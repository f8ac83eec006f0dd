import { expect, test } from "bun:test";
import { projectFiles, readSource } from "../kit/sources.ts";

type Row = { item: number; tests: string };

/** The lines of the table in docs/guest-validation.md. */
function rows(): Row[] {
  const lines = readSource("docs/guest-validation.md").text.split("\n");
  return lines
    .filter((line) => /^\| \d+ /.test(line))
    .map((line) => line.split("|").map((cell) => cell.trim()))
    .map((cells) => ({ item: Number(cells[1]), tests: cells[5] ?? "" }));
}

test("each of the 30 violations has a line, and tests or a reason for none", () => {
  expect(rows().map(({ item }) => item)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
  for (const { tests } of rows()) expect(tests).not.toBe("");
});

test("the tests that the list names exist", () => {
  const sources = new Map(
    projectFiles()
      .filter((path) => /^native\/test\/\w+_test\.c$/.test(path))
      .map((path) => [path, readSource(path).text]),
  );
  const validation = readSource("tests/vm/validation.test.ts").text;
  const missing: string[] = [];
  for (const { item, tests } of rows())
    for (const part of tests.split(";").map((text) => text.trim())) {
      const [, file = ""] = /^(\w+) `/.exec(part) ?? [];
      const text = sources.get(`native/test/${file}_test.c`) ?? "";
      for (const [, name = ""] of part.matchAll(/`(\w+)`/g))
        if (!text.includes(`static void ${name}(`)) missing.push(`${file} ${name}`);
      const [, number = ""] = /^V (\d+)$/.exec(part) ?? [];
      const named = new RegExp(`["\`](\\d+, )*${number}(, \\d+)*( \\(|:)`);
      if (number !== "" && !named.test(validation)) missing.push(`${item}: ${part}`);
    }
  expect(missing).toEqual([]);
});
