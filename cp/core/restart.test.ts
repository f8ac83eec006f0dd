import { expect, test } from "bun:test";
import { nextRestart } from "./restart.ts";

const policy = (name: "no" | "on-failure" | "always", retries = 3) => ({
  policy: name,
  max_retries: retries,
});
const end = (exitCode: number | null, ranMs: number | null = 10, failed = false) => ({
  exitCode,
  ranMs,
  failed,
});

test("no policy, or none at all, restarts nothing", () => {
  expect(nextRestart(policy("no"), 0, end(1))).toBeNull();
  expect(nextRestart(undefined, 0, end(1))).toBeNull();
});

test("on-failure leaves a success alone and gives up after its retries", () => {
  expect(nextRestart(policy("on-failure"), 0, end(0))).toBeNull();
  expect(nextRestart(policy("on-failure"), 0, end(1))).toEqual({ afterMs: 0, restarts: 1 });
  expect(nextRestart(policy("on-failure"), 2, end(null, null, true))).toEqual({
    afterMs: 2_000,
    restarts: 3,
  });
  expect(nextRestart(policy("on-failure"), 3, end(1))).toBeNull();
});

test("always goes on, more and more slowly, and begins anew after a run that lasted", () => {
  expect(nextRestart(policy("always"), 0, end(0))).toEqual({ afterMs: 0, restarts: 1 });
  expect(nextRestart(policy("always"), 40, end(0))).toEqual({ afterMs: 60_000, restarts: 41 });
  expect(nextRestart(policy("always"), 40, end(0, 60_000))).toEqual({ afterMs: 0, restarts: 1 });
});
