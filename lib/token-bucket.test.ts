import { expect, test } from "bun:test";
import { TokenBuckets } from "./token-bucket.ts";

test("a burst passes, then as many as the rate allows, key by key", () => {
  const buckets = new TokenBuckets(10, 3);
  expect([1, 2, 3].map(() => buckets.take("a", 0))).toEqual([0, 0, 0]);
  expect(buckets.take("a", 0)).toBe(100);
  expect(buckets.take("b", 0)).toBe(0);
  expect(buckets.take("a", 99)).toBe(1);
  expect(buckets.take("a", 200)).toBe(0);
});

test("a clock that steps back neither fills nor empties a bucket", () => {
  const buckets = new TokenBuckets(1, 1);
  expect(buckets.take("a", 5_000)).toBe(0);
  expect(buckets.take("a", 1_000)).toBe(1_000);
});
