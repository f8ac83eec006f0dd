/** What the agent says of its host. */
import { create } from "@bufbuild/protobuf";
import { statfsSync } from "node:fs";
import { freemem, loadavg } from "node:os";
import {
  type Heartbeat,
  HeartbeatSchema,
  type Hello,
  HelloSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import type { AgentContext } from "../context.ts";
import { bootId } from "../runtime/proc.ts";

const MIB = 2 ** 20;

export function hello(context: AgentContext): Hello {
  const { config, hostId, fleet, version, instance } = context;
  const { cpus, memoryMib, diskMib } = config.capacity;
  return create(HelloSchema, {
    hostId,
    hostname: config.hostName,
    version,
    bootId: bootId(),
    arch: "amd64",
    capacity: { cpus, memoryMib: BigInt(memoryMib), diskMib: BigInt(diskMib) },
    labels: config.labels,
    inventory: fleet.inventory(),
    kvm: config.kvmKind,
    instance,
  });
}

/** `received`: frames that have come down the stream; the Outbox counts those that go up. */
export function heartbeat(context: AgentContext, sequence: bigint, received: bigint): Heartbeat {
  const disk = statfsSync(context.config.dir);
  return create(HeartbeatSchema, {
    sequence,
    memoryFreeMib: BigInt(Math.floor(freemem() / MIB)),
    diskFreeMib: BigInt(Math.floor((disk.bavail * disk.bsize) / MIB)),
    load1: loadavg()[0] ?? 0,
    framesReceived: received,
  });
}
