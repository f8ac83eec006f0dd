/** Ops as the control plane writes them. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type MachineSpecSchema, type Op, OpSchema } from "../../proto/gen/leveret/v1/agent_pb.js";
import { OpId } from "../../proto/ids.ts";

export type SpecInit = MessageInitShape<typeof MachineSpecSchema>;

const SPEC = { image: "busybox", cpus: 1, memoryMib: 128n, diskMib: 64n, hostname: "guest" };

export function startOp(machineId: string, generation: number, spec: SpecInit = {}): Op {
  return create(OpSchema, {
    opId: OpId.create(),
    machineId,
    generation: BigInt(generation),
    command: {
      case: "start",
      value: { incarnation: BigInt(generation), spec: { ...SPEC, ...spec } },
    },
  });
}

export function stopOp(machineId: string, generation: number, timeoutMs = 5_000): Op {
  return create(OpSchema, {
    opId: OpId.create(),
    machineId,
    generation: BigInt(generation),
    command: { case: "stop", value: { timeoutMs } },
  });
}

export function destroyOp(machineId: string, generation: number): Op {
  return create(OpSchema, {
    opId: OpId.create(),
    machineId,
    generation: BigInt(generation),
    command: { case: "destroy", value: {} },
  });
}

export const argv = (...cmd: string[]): SpecInit => ({ cmd, hasCmd: true });
