/**
 * The REST API's shapes, in Fly Machines' nouns. These zod schemas validate
 * requests, type the CLI and generate /openapi.json; there is no second copy.
 */
import { z } from "zod";
import { LIMITS } from "../lib/limits.ts";
import { HOST_STATES, MACHINE_STATES } from "./states.ts";

const name = z
  .string()
  .max(LIMITS.nameMaxLength)
  .regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, "lower-case letters, digits and inner hyphens")
  .meta({ description: "Unique among the machines that are not destroyed", example: "web-1" });

const envKey = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[^=\0]+$/, "no '=' or NUL");
const argument = z
  .string()
  .max(LIMITS.argvBytes)
  .regex(/^[^\0]*$/, "no NUL");

export const MachineConfig = z
  .strictObject({
    image: z.string().min(1).max(1024).meta({ description: "OCI reference by tag or digest" }),
    guest: z
      .strictObject({
        cpus: z.int().min(1).max(LIMITS.cpusMax).default(1),
        memory_mb: z
          .int()
          .min(LIMITS.memoryMinMib)
          .max(LIMITS.memoryMaxMib)
          .default(256)
          .meta({ description: "MiB" }),
        disk_mb: z
          .int()
          .min(LIMITS.diskMinMib)
          .max(LIMITS.diskMaxMib)
          .default(1024)
          .meta({ description: "MiB of writable disk under the root file system" }),
        kernel: z.string().max(1024).optional().meta({
          description:
            "Kernel file on the host (ELF vmlinux or bzImage) in a directory the agent allows",
        }),
        initrd: z.string().max(1024).optional(),
        kernel_args: z.string().max(1024).optional(),
      })
      .prefault({}),
    env: z.record(envKey, z.string().regex(/^[^\0]*$/, "no NUL")).default({}),
    init: z
      .strictObject({
        entrypoint: z
          .array(argument)
          .max(LIMITS.argvEntries)
          .optional()
          .meta({ description: "Replaces the image's ENTRYPOINT" }),
        cmd: z
          .array(argument)
          .max(LIMITS.argvEntries)
          .optional()
          .meta({ description: "Replaces the image's CMD" }),
        working_dir: z.string().max(4096).optional(),
        user: z.string().max(256).optional(),
      })
      .prefault({}),
    stop_config: z
      .strictObject({
        signal: z
          .int()
          .min(0)
          .max(64)
          .default(0)
          .meta({ description: "0 = the image's StopSignal, else SIGTERM" }),
        timeout: z
          .int()
          .min(0)
          .max(LIMITS.stopTimeoutMaxMs / 1000)
          .default(10)
          .meta({ description: "Seconds until the machine is killed" }),
      })
      .prefault({}),
    metadata: z.record(z.string().max(256), z.string().max(4096)).default({}),
  })
  .meta({ id: "MachineConfig" });
export type MachineConfig = z.infer<typeof MachineConfig>;
export type MachineConfigInput = z.input<typeof MachineConfig>;

export const CreateMachineRequest = z
  .strictObject({ name: name.optional(), config: MachineConfig })
  .meta({ id: "CreateMachineRequest" });
export type CreateMachineRequest = z.input<typeof CreateMachineRequest>;

export const StopMachineRequest = z
  .strictObject({
    signal: z.int().min(0).max(64).optional(),
    timeout: z
      .int()
      .min(0)
      .max(LIMITS.stopTimeoutMaxMs / 1000)
      .optional()
      .meta({ description: "Seconds" }),
  })
  .meta({ id: "StopMachineRequest" });

export const MachineEventBody = z
  .object({
    id: z.string(),
    type: z.string().meta({ example: "start" }),
    status: z.enum(MACHINE_STATES),
    source: z.enum(["user", "host", "system"]),
    reason: z.string().nullable(),
    message: z.string().nullable(),
    timestamp: z.int().meta({ description: "Unix milliseconds" }),
  })
  .meta({ id: "MachineEvent" });
export type MachineEventBody = z.infer<typeof MachineEventBody>;

export const ImageProgress = z
  .object({
    phase: z.enum(["resolving", "pulling", "converting", "ready", "failed"]),
    bytes_done: z.int(),
    bytes_total: z.int(),
    layers: z.int(),
  })
  .meta({ id: "ImageProgress" });

export const Machine = z
  .object({
    id: z.string().meta({ example: "mch_0123456789abcdefghjk" }),
    name: z.string(),
    state: z.enum(MACHINE_STATES),
    desired_state: z.enum(["started", "stopped", "destroyed"]),
    instance_id: z.string().meta({ description: "Names one run of the machine" }),
    version: z.int(),
    host_id: z.string().nullable(),
    host_name: z.string().nullable(),
    config: MachineConfig,
    image_digest: z.string().nullable(),
    status_reason: z
      .string()
      .nullable()
      .meta({ description: "Why it is not running: a reason of the error table" }),
    status_message: z.string().nullable(),
    exit_code: z.int().nullable(),
    exit_signal: z.int().nullable(),
    boot_us: z
      .int()
      .nullable()
      .meta({ description: "VMM start to the first message of the guest's init" }),
    image_progress: ImageProgress.nullable(),
    created_at: z.string(),
    updated_at: z.string(),
    started_at: z.string().nullable(),
    stopped_at: z.string().nullable(),
    events: z
      .array(MachineEventBody)
      .optional()
      .meta({ description: "Newest first; only where one machine is asked for" }),
  })
  .meta({ id: "Machine" });
export type Machine = z.infer<typeof Machine>;

export const Host = z
  .object({
    id: z.string(),
    hostname: z.string(),
    state: z.enum(HOST_STATES),
    arch: z.string(),
    kvm: z.enum(["direct", "lab"]),
    version: z.string(),
    labels: z.record(z.string(), z.string()),
    capacity: z.object({ cpus: z.int(), memory_mb: z.int(), disk_mb: z.int() }),
    committed: z.object({ cpus: z.int(), memory_mb: z.int(), disk_mb: z.int() }),
    machines: z.int(),
    last_seen_at: z.string().nullable(),
  })
  .meta({ id: "Host" });
export type Host = z.infer<typeof Host>;

/** One `data:` of the log stream. The SSE id is the sequence; event names: "log", "end", "error". */
export const LogLine = z
  .object({
    sequence: z.int(),
    time: z.int().meta({ description: "Unix milliseconds" }),
    stream: z.enum(["stdout", "stderr", "system"]),
    data: z.string().meta({ description: "base64 of the raw bytes; not cut at line ends" }),
    instance_id: z.string(),
  })
  .meta({ id: "LogLine" });
export type LogLine = z.infer<typeof LogLine>;

export const ErrorBody = z
  .object({
    error: z.object({
      code: z.int().meta({ description: "The HTTP status" }),
      reason: z.string(),
      message: z.string(),
      requestId: z.string(),
    }),
  })
  .meta({ id: "Error" });
export type ErrorBody = z.infer<typeof ErrorBody>;
