import { expect, test } from "bun:test";
import { seal, unseal } from "./seal.ts";

const KEY = new Uint8Array(32).fill(7);

test("what was sealed is opened with the same key for the same purpose only", () => {
  const sealed = seal(KEY, "a", "the secret");
  expect(unseal(KEY, "a", sealed)).toBe("the secret");
  expect(unseal(KEY, "b", sealed)).toBeNull();
  expect(unseal(new Uint8Array(32), "a", sealed)).toBeNull();
  for (const at of [0, 12, 28])
    expect(unseal(KEY, "a", sealed.with(at, 255 - (sealed[at] ?? 0)))).toBeNull();
  expect(unseal(KEY, "a", sealed.subarray(0, 20))).toBeNull();
});
