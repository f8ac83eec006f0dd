import { expect, test } from "bun:test";
import { environment, exactly, integer, parse, parseBefore, UsageError } from "./command.ts";

const OPTIONS = {
  rm: { type: "boolean" },
  env: { type: "string", short: "e", multiple: true },
} as const;

test("flags end at the first word that is not one", () => {
  const parsed = parseBefore(["--rm", "-e", "A=1", "img", "ls", "--rm", "-e", "B"], OPTIONS);
  expect({ ...parsed.values }).toEqual({ rm: true, env: ["A=1"] });
  expect(parsed.rest).toEqual(["img", "ls", "--rm", "-e", "B"]);
});

test("a double dash before the image is dropped, one after it belongs to the command", () => {
  expect(parseBefore(["--rm", "--", "img", "ls"], OPTIONS).rest).toEqual(["img", "ls"]);
  expect(parseBefore(["img", "sh", "--", "x"], OPTIONS).rest).toEqual(["img", "sh", "--", "x"]);
});

test("an unknown flag is a usage error that names it", () => {
  expect(() => parse(["--bogus"], OPTIONS)).toThrow(UsageError);
  expect(() => parseBefore(["--bogus", "img"], OPTIONS)).toThrow("Unknown option '--bogus'");
});

test("a flag without its value is a usage error", () => {
  expect(() => parseBefore(["-e"], OPTIONS)).toThrow(UsageError);
});

test("numbers are whole and within bounds", () => {
  expect(integer("--cpus", "8", 1, 8)).toBe(8);
  for (const bad of ["0", "9", "1.5", "-1", "1e1", "", "x", " 2"])
    expect(() => integer("--cpus", bad, 1, 8)).toThrow("--cpus");
});

test("the number of words is checked both ways", () => {
  expect(() => exactly([], 1, "MACHINE")).toThrow("MACHINE is missing");
  expect(() => exactly(["a", "b"], 1, "MACHINE")).toThrow('"b" is one word too many');
});

test("-e K=V keeps further equals signs, -e K takes the value of here", () => {
  const words = ["A=b=c", "E=", "HERE", "ABSENT"];
  expect(environment(words, { HERE: "yes" })).toEqual({ A: "b=c", E: "", HERE: "yes" });
  expect(() => environment(["=x"], {})).toThrow(UsageError);
});
