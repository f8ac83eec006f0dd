/** Between the link's messages and the control plane's own types. Total in both directions. */
import { create } from "@bufbuild/protobuf";
import {
  BuildProgress_Phase,
  LogChunk_Stream,
  OpSchema,
  type BuildProgress,
  type ImageInventory,
  type LogChunk,
  type MachineStatus,
  type Op,
  type Result,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { LIMITS } from "../../lib/limits.ts";
import type { ImageProgress, MachineConfig } from "../../proto/rest.ts";
import type { z } from "zod";
import { machineStateFromWire } from "../../proto/states.ts";
import type { Report } from "../core/machine.ts";
import type { HostImage } from "../db/queries/host-images.ts";
import type { Outgoing } from "../db/queries/ops.ts";
import type { LogPiece } from "../ops/follow-logs.ts";
import type { OpResult } from "../ops/result.ts";

const TEXT_MAX = 4_096;

/** What a host says is stored and shown: bounded, and without what a text column refuses. */
function text(value: string): string | null {
  const clean = value.replaceAll("\0", "").slice(0, TEXT_MAX);
  return clean === "" ? null : clean;
}

function time(ms: bigint): number | null {
  // The largest date JavaScript knows; a broken clock must not become a thrown RangeError.
  return ms === 0n || ms > 8_640_000_000_000_000n ? null : Number(ms);
}

function counter(value: bigint): number {
  return Number(value > BigInt(Number.MAX_SAFE_INTEGER) ? BigInt(Number.MAX_SAFE_INTEGER) : value);
}

export function reportFromWire(status: MachineStatus): Report {
  return {
    state: machineStateFromWire(status.state),
    generation: counter(status.generation),
    incarnation: counter(status.incarnation),
    sequence: counter(status.sequence),
    reason: text(status.reason),
    message: text(status.message),
    exit: status.exited ? { code: status.exitCode, signal: status.exitSignal } : null,
    imageDigest: text(status.imageDigest),
    bootUs: status.bootUs === 0n ? null : counter(status.bootUs),
    startedAtMs: time(status.startedAtMs),
    stoppedAtMs: time(status.stoppedAtMs),
  };
}

export function resultFromWire(result: Result): OpResult {
  return {
    opId: result.opId,
    machineId: result.machineId,
    error:
      result.errorReason === ""
        ? null
        : {
            reason: text(result.errorReason) ?? "INTERNAL",
            message: text(result.errorMessage) ?? "The host gave no message",
          },
    report: result.status === undefined ? null : reportFromWire(result.status),
    image:
      result.image === undefined
        ? null
        : {
            digest: text(result.image.digest),
            bytes: counter(result.image.sizeBytes + result.image.freedBytes),
            removed: result.image.removed.length,
          },
  };
}

/** Null when the op cannot be sent: its machine's row is needed and gone. */
export function opToWire({ op, machine }: Outgoing): Op | null {
  const base = { opId: op.id, machineId: op.machineId, generation: BigInt(op.generation) };
  const { command } = op;
  switch (command.kind) {
    case "start":
      if (machine === null) return null;
      return create(OpSchema, {
        ...base,
        command: {
          case: "start",
          value: {
            spec: specOf(machine.name, machine.config),
            incarnation: BigInt(command.incarnation),
          },
        },
      });
    case "stop":
      return create(OpSchema, {
        ...base,
        command: { case: "stop", value: { signal: command.signal, timeoutMs: command.timeoutMs } },
      });
    case "destroy":
      return create(OpSchema, { ...base, command: { case: "destroy", value: {} } });
    case "pull_image":
      return create(OpSchema, {
        ...base,
        command: { case: "pullImage", value: { image: command.image } },
      });
    case "prune_images":
      return create(OpSchema, {
        ...base,
        command: { case: "pruneImages", value: { all: command.all } },
      });
    case "pin_image": {
      const { digest, pinned } = command;
      return create(OpSchema, {
        ...base,
        command: { case: "pinImage", value: { digest, pinned } },
      });
    }
    case "remove_image":
      return create(OpSchema, {
        ...base,
        command: { case: "removeImage", value: { digest: command.digest } },
      });
    default: {
      const rest: never = command;
      return rest;
    }
  }
}

function specOf(name: string, config: MachineConfig) {
  const { guest, init } = config;
  return {
    image: config.image,
    cpus: guest.cpus,
    memoryMib: BigInt(guest.memory_mb),
    diskMib: BigInt(guest.disk_mb),
    env: config.env,
    entrypoint: init.entrypoint ?? [],
    hasEntrypoint: init.entrypoint !== undefined,
    cmd: init.cmd ?? [],
    hasCmd: init.cmd !== undefined,
    workingDir: init.working_dir ?? "",
    user: init.user ?? "",
    hostname: name,
    kernelPath: guest.kernel ?? "",
    initrdPath: guest.initrd ?? "",
    kernelArgs: guest.kernel_args ?? "",
    cpuTemplate: guest.cpu_template ?? "",
    hugepages: guest.hugepages ?? false,
  };
}

const REFERENCES_MAX = 64;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Entries that no honest agent sends are left out. */
export function imagesFromWire(inventory: ImageInventory): HostImage[] {
  const images = inventory.images
    .slice(0, LIMITS.imageInventory)
    .filter(({ digest }) => DIGEST.test(digest));
  return [...new Map(images.map((image) => [image.digest, image])).values()].map((image) => ({
    digest: image.digest,
    sizeBytes: counter(image.sizeBytes),
    lastUsedAt: new Date(time(image.lastUsedMs) ?? 0),
    pinned: image.pinned,
    names: image.references.slice(-REFERENCES_MAX).flatMap((name) => text(name) ?? []),
  }));
}

type Progress = z.infer<typeof ImageProgress>;

const PHASES: Record<BuildProgress_Phase, Progress["phase"] | null> = {
  [BuildProgress_Phase.UNSPECIFIED]: null,
  [BuildProgress_Phase.RESOLVING]: "resolving",
  [BuildProgress_Phase.PULLING]: "pulling",
  [BuildProgress_Phase.CONVERTING]: "converting",
  [BuildProgress_Phase.READY]: "ready",
  [BuildProgress_Phase.FAILED]: "failed",
  [BuildProgress_Phase.QUEUED]: "queued",
};

export function progressFromWire(progress: BuildProgress): Progress | null {
  const phase = PHASES[progress.phase] ?? null;
  if (phase === null) return null;
  return {
    phase,
    bytes_done: counter(progress.bytesDone),
    bytes_total: counter(progress.bytesTotal),
    layers: progress.layers,
    layers_done: progress.layersDone,
    queue_position: progress.queuePosition,
    bytes_per_second: counter(progress.bytesPerSecond),
  };
}

const STREAMS: Record<LogChunk_Stream, LogPiece["stream"]> = {
  [LogChunk_Stream.UNSPECIFIED]: "system",
  [LogChunk_Stream.STDOUT]: "stdout",
  [LogChunk_Stream.STDERR]: "stderr",
  [LogChunk_Stream.SYSTEM]: "system",
};

export function pieceFromWire(chunk: LogChunk): LogPiece {
  return {
    sequence: counter(chunk.sequence),
    timeMs: counter(chunk.timeMs),
    stream: STREAMS[chunk.stream] ?? "system",
    data: chunk.data,
    incarnation: counter(chunk.incarnation),
  };
}
