import { expect, test } from "bun:test";
import { arrive, isConflict, type Instances } from "./instances.ts";

function after(...names: string[]): Instances {
  let known: Instances | null = null;
  for (const name of names) known = arrive(known, name) ?? known;
  if (known === null) throw new Error("nothing arrived");
  return known;
}

test("one agent that reconnects, or is started again and again, is no conflict", () => {
  expect(isConflict(after("a", "a", "a", "a"))).toBe(false);
  expect(isConflict(after("a", "b", "c", "d", "e", "f"))).toBe(false);
});

test("a second agent that was started by mistake and has ended is no conflict", () => {
  expect(isConflict(after("a", "b", "a", "a", "a"))).toBe(false);
});

test("two agents that take turns are one", () => {
  expect(isConflict(after("a", "b", "a", "b"))).toBe(true);
  expect(isConflict(after("a", "b", "c", "a", "b", "c"))).toBe(true);
});

test("returns count anew after a quiet time", () => {
  const quiet = { ...after("a", "b", "a", "b"), recent: false };
  expect(isConflict(quiet)).toBe(false);
  expect(arrive(quiet, "a")).toMatchObject({ returns: 1, recent: true });
});
