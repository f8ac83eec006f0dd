import { afterEach, beforeEach, expect, test } from "bun:test";
import { create } from "@bufbuild/protobuf";
import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  MachineSpecSchema,
  MachineState,
  MachineStatusSchema,
  ResultSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId, MachineId } from "../../proto/ids.ts";
import { startOp, stopOp } from "../../tests/kit/ops.ts";
import { Journal } from "./journal.ts";

let dir = "";
let journal: Journal;
const path = (): string => join(dir, "journal.sqlite");
const reopen = (): void => {
  journal[Symbol.dispose]();
  journal = new Journal(path());
};
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "lev-journal-"));
  journal = new Journal(path());
});
afterEach(() => {
  journal[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

test("an op goes from journalled to done to acked, and stays known", () => {
  const op = startOp(MachineId.create(), 1);
  expect(journal.findOp(op.opId)).toBeNull();
  journal.addOp(op);
  reopen();
  expect(journal.unfinishedOps()).toEqual([op]);
  const result = create(ResultSchema, { opId: op.opId, machineId: op.machineId });
  journal.finishOp(result);
  reopen();
  expect(journal.unfinishedOps()).toEqual([]);
  expect(journal.unackedResults()).toEqual([result]);
  journal.acknowledge(op.opId);
  journal.acknowledge(op.opId);
  expect(journal.unackedResults()).toEqual([]);
  expect(journal.findOp(op.opId)).toEqual({ state: "acked", result });
});

test("an acknowledgement before the result changes nothing", () => {
  const op = startOp(MachineId.create(), 1);
  journal.addOp(op);
  journal.acknowledge(op.opId);
  journal.acknowledge("op_unknown");
  expect(journal.unfinishedOps()).toEqual([op]);
});

test("a result that was given once is not given again", () => {
  const op = startOp(MachineId.create(), 1);
  journal.addOp(op);
  const { opId } = op;
  journal.finishOp(create(ResultSchema, { opId, errorReason: "NO_CAPACITY" }));
  journal.finishOp(create(ResultSchema, { opId }));
  expect(journal.findOp(opId)?.result?.errorReason).toBe("NO_CAPACITY");
});

test("unfinished ops come back in the order of arrival", () => {
  const id = MachineId.create();
  const ops = [startOp(id, 3), stopOp(id, 1), startOp(id, 2)];
  for (const op of ops) journal.addOp(op);
  reopen();
  expect(journal.unfinishedOps()).toEqual(ops);
});

test("a machine is kept as it was said last, and remembered when it is forgotten", () => {
  const machineId = MachineId.create();
  const spec = create(MachineSpecSchema, { image: "busybox", env: { A: "1" } });
  const status = create(MachineStatusSchema, { machineId, state: MachineState.STARTED });
  journal.saveMachine(create(MachineStatusSchema, { machineId }), null);
  journal.saveMachine(status, spec);
  reopen();
  expect(journal.machines()).toEqual([{ status, spec, forgotten: false }]);
  journal.forgetMachine(machineId);
  expect(journal.machines()).toMatchObject([{ forgotten: true }]);
});

test("the host id is made once", () => {
  const id = journal.hostId();
  expect(HostId.is(id)).toBe(true);
  reopen();
  expect(journal.hostId()).toBe(id);
});

test("a journal of another version is refused, not misread", () => {
  using db = new Database(path());
  db.run("UPDATE meta SET value = '999' WHERE key = 'version'");
  expect(() => new Journal(path())).toThrow("journal 999, expected 1");
});
