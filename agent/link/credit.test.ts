import { expect, test } from "bun:test";
import { Credit } from "./credit.ts";

const never = new AbortController().signal;

test("takes until nothing is left, and goes on when more is granted", async () => {
  const credit = new Credit(10n);
  await credit.take(8, never);
  // More than is left: a piece is not cut.
  await credit.take(8, never);
  let taken = false;
  const third = credit.take(1, never).then(() => (taken = true));
  credit.add(6n);
  await Promise.resolve();
  expect(taken).toBe(false);
  credit.add(1n);
  await third;
  expect(taken).toBe(true);
});

test("a hub that grants nothing is not waited for", async () => {
  const credit = new Credit(0n);
  for (let round = 0; round < 100; round += 1) await credit.take(1 << 20, never);
});

test("whoever waits is let go when the session is given up", async () => {
  const abort = new AbortController();
  const credit = new Credit(1n);
  await credit.take(5, abort.signal);
  const waiting = credit.take(1, abort.signal);
  abort.abort();
  await waiting;
});
