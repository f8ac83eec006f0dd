import { expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import {
  AckSchema,
  BuildProgressSchema,
  MachineStatusSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { Outbox } from "./outbox.ts";

const ack = (opId: string) => ({ case: "ack", value: create(AckSchema, { opId }) }) as const;
const status = (machineId: string, sequence: bigint) =>
  ({ case: "status", value: create(MachineStatusSchema, { machineId, sequence }) }) as const;
const progress = () => ({ case: "progress", value: create(BuildProgressSchema) }) as const;

async function drain(outbox: Outbox): Promise<unknown[]> {
  outbox.close();
  const frames: unknown[] = [];
  for await (const { frame } of outbox) frames.push(frame);
  return frames;
}

test("frames leave in order, those of before the reading too", async () => {
  const outbox = new Outbox(() => undefined);
  for (const id of ["a", "b", "c"]) outbox.push(ack(id));
  expect(await drain(outbox)).toEqual(["a", "b", "c"].map(ack));
});

test("a reader that waits is woken by the next frame", async () => {
  const outbox = new Outbox(() => undefined);
  const next = outbox[Symbol.asyncIterator]().next();
  outbox.push(ack("late"));
  expect((await next).value?.frame).toEqual(ack("late"));
});

test("when it is full, progress and superseded statuses go first", async () => {
  let overflowed = 0;
  const outbox = new Outbox(() => (overflowed += 1), 4);
  outbox.push(status("m", 1n));
  outbox.push(progress());
  outbox.push(status("n", 1n));
  outbox.push(ack("a"));
  outbox.push(status("m", 2n));
  expect(overflowed).toBe(0);
  expect(await drain(outbox)).toEqual([status("n", 1n), ack("a"), status("m", 2n)]);
});

test("when it stays full, the stream is given up", () => {
  let overflowed = 0;
  const outbox = new Outbox(() => (overflowed += 1), 2);
  for (const id of ["a", "b", "c"]) outbox.push(ack(id));
  expect(overflowed).toBe(1);
});
