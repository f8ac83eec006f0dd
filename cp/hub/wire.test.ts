import { create } from "@bufbuild/protobuf";
import { expect, test } from "bun:test";
import {
  BuildProgress_Phase,
  BuildProgressSchema,
  MachineStatusSchema,
  ResultSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { progressFromWire, reportFromWire, resultFromWire } from "./wire.ts";

test("a status keeps the difference between nothing and zero", () => {
  const empty = reportFromWire(create(MachineStatusSchema, {}));
  expect(empty).toMatchObject({ state: "unknown", exit: null, bootUs: null, startedAtMs: null });
  const ended = reportFromWire(create(MachineStatusSchema, { exited: true }));
  expect(ended.exit).toEqual({ code: 0, signal: 0 });
});

test("what a column would refuse does not come through", () => {
  const hostile = reportFromWire(
    create(MachineStatusSchema, {
      message: `a\0b${"x".repeat(10_000)}`,
      sequence: 2n ** 64n - 1n,
      startedAtMs: 2n ** 64n - 1n,
    }),
  );
  expect(hostile.message).toStartWith("abx");
  expect(hostile.message).toHaveLength(4_096);
  expect(hostile.sequence).toBe(Number.MAX_SAFE_INTEGER);
  expect(hostile.startedAtMs).toBeNull();
});

test("a Result without a reason is a success", () => {
  expect(resultFromWire(create(ResultSchema, { opId: "op_1" })).error).toBeNull();
  expect(resultFromWire(create(ResultSchema, { errorReason: "DISK_FULL" })).error).toEqual({
    reason: "DISK_FULL",
    message: "The host gave no message",
  });
});

test("a phase of a newer agent is no progress", () => {
  const phase = 99 as BuildProgress_Phase;
  expect(progressFromWire(create(BuildProgressSchema, { phase }))).toBeNull();
});
