/**
 * The REST API's shapes, in Fly Machines' nouns. These zod schemas validate
 * requests, type the CLI and generate /openapi.json; there is no second copy.
 */
import { z } from "zod";
import { LIMITS } from "../lib/limits.ts";
import { HOST_STATES, MACHINE_STATES } from "./states.ts";
import { CPU_TEMPLATES } from "./vmm.ts";

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

export const RESTART_POLICIES = ["no", "on-failure", "always"] as const;

const metadataKey = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[^\0]*$/, "no NUL");
const metadataValue = z
  .string()
  .max(4096)
  .regex(/^[^\0]*$/, "no NUL");
export const Metadata = z.record(metadataKey, metadataValue).meta({ id: "Metadata" });
export const MetadataValue = z.strictObject({ value: metadataValue }).meta({ id: "MetadataValue" });

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
        cpu_template: z.enum(CPU_TEMPLATES).optional().meta({
          description:
            "host (default): all that the host's processor has; baseline: x86-64-v3, the same on every host",
        }),
        hugepages: z.boolean().optional().meta({
          description: "Memory in pages of 2 MiB, which the host must have set aside",
        }),
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
    restart: z
      .strictObject({
        policy: z.enum(RESTART_POLICIES).default("no").meta({
          description:
            "When a run has ended by itself; on-failure: with another exit code than 0, or without one",
        }),
        max_retries: z
          .int()
          .min(0)
          .max(1_000_000)
          .default(10)
          .meta({ description: "Runs in a row that end within a minute; for on-failure" }),
      })
      .prefault({}),
    auto_destroy: z
      .boolean()
      .default(false)
      .meta({ description: "Remove the machine when it has ended and is not to be restarted" }),
    placement: z
      .strictObject({
        labels: z.record(z.string().min(1).max(253), z.string().max(253)).default({}).meta({
          description: "Labels that the host must have; `arch` and `kvm` are always there",
        }),
        anti_affinity: z.string().min(1).max(63).optional().meta({
          description: "A group of the project: no two machines of it are on the same host",
        }),
      })
      .prefault({}),
    metadata: z.record(metadataKey, metadataValue).default({}),
  })
  .meta({ id: "MachineConfig" });
export type MachineConfig = z.infer<typeof MachineConfig>;
export type MachineConfigInput = z.input<typeof MachineConfig>;

export const CreateMachineRequest = z
  .strictObject({
    name: name.optional(),
    config: MachineConfig,
    on_no_capacity: z.enum(["pending", "fail"]).default("pending").meta({
      description: "pending: the machine waits for room; fail: it is `failed` at once",
    }),
  })
  .meta({ id: "CreateMachineRequest" });
export type CreateMachineRequest = z.input<typeof CreateMachineRequest>;

/** RFC 7396 on the machine's config: what is null goes back to its default. */
export const PatchMachineRequest = z
  .strictObject({ config: z.record(z.string(), z.unknown()) })
  .meta({ id: "PatchMachineRequest" });

export const ReplaceMachineRequest = z
  .strictObject({ config: MachineConfig })
  .meta({ id: "ReplaceMachineRequest" });

export const LeaseRequest = z
  .strictObject({
    ttl: z
      .int()
      .min(1)
      .max(3_600)
      .default(60)
      .meta({ description: "Seconds; asking again with the nonce renews it" }),
    description: z.string().max(256).optional(),
  })
  .meta({ id: "LeaseRequest" });

export const Lease = z
  .object({
    nonce: z
      .string()
      .optional()
      .meta({ description: "Only for the one who has it: goes into leveret-machine-lease-nonce" }),
    owner: z.string().meta({ description: "Id of the token that took it" }),
    description: z.string().nullable(),
    expires_at: z.string(),
  })
  .meta({ id: "Lease" });
export type Lease = z.infer<typeof Lease>;

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

/** One `data:` of /v1/events. The SSE id is its position: Last-Event-ID goes on after it. */
export const FeedEvent = MachineEventBody.extend({
  machine_id: z.string(),
  project_id: z.string(),
}).meta({ id: "FeedEvent" });
export type FeedEvent = z.infer<typeof FeedEvent>;

export const ImageProgress = z
  .object({
    phase: z.enum(["queued", "resolving", "pulling", "converting", "ready", "failed"]),
    bytes_done: z.int(),
    bytes_total: z.int(),
    layers: z.int(),
    layers_done: z.int().default(0),
    queue_position: z
      .int()
      .default(0)
      .meta({ description: "From 1, while other builds of the host come first" }),
    bytes_per_second: z.int().default(0).meta({ description: "Over the last seconds" }),
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
    restarts: z.int().meta({ description: "By the restart policy, in a row" }),
    restart_at: z.string().nullable().meta({ description: "When the next run is due" }),
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

const counter = z.int().min(0);

/** What one run has counted so far; all of it begins again with the next one. */
export const MachineMetrics = z
  .object({
    instance_id: z.string(),
    time: z.int().meta({ description: "Unix milliseconds" }),
    cpu_us: counter.meta({ description: "Processor time of the machine and its VMM" }),
    resident_bytes: counter.meta({ description: "Memory of the host that it holds" }),
    balloon: z
      .object({
        target_bytes: counter,
        actual_bytes: counter,
        free_bytes: counter.meta({ description: "As the guest sees it, at the request before" }),
        available_bytes: counter,
      })
      .nullable(),
    vcpus: z.array(
      z.object({
        exits_pio: counter,
        exits_mmio: counter,
        exits_interrupt: counter,
        exits_other: counter,
      }),
    ),
    devices: z.array(
      z.object({
        name: z.string().meta({ description: "Kind and number", example: "blk0" }),
        notifications: counter.meta({ description: "By the guest" }),
        interrupts: counter.meta({ description: "To the guest" }),
        requests: counter,
        bytes_in: counter.meta({ description: "Into the guest" }),
        bytes_out: counter.meta({ description: "Out of the guest" }),
        throttled: counter.meta({ description: "Times that a rate limit made it wait" }),
        malformed: counter.meta({ description: "Requests that broke the device's rules" }),
        dropped: counter,
        errors: counter,
      }),
    ),
  })
  .meta({ id: "MachineMetrics" });
export type MachineMetrics = z.infer<typeof MachineMetrics>;

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
    cordoned: z.boolean(),
    draining: z.enum(["move", "stop"]).nullable(),
    drain_deadline: z.string().nullable(),
    quarantined_until: z
      .string()
      .nullable()
      .meta({ description: "Starts kept failing there by its own fault" }),
    committed: z.object({ cpus: z.int(), memory_mb: z.int(), disk_mb: z.int() }),
    machines: z.int(),
    last_seen_at: z.string().nullable(),
  })
  .meta({ id: "Host" });
export type Host = z.infer<typeof Host>;

export const DrainHostRequest = z
  .strictObject({
    mode: z
      .enum(["move", "stop"])
      .default("move")
      .meta({ description: "move: stopped, and started on another host with a fresh disk" }),
    deadline: z
      .int()
      .min(0)
      .max(86_400)
      .default(300)
      .meta({ description: "Seconds after which machines are killed" }),
  })
  .meta({ id: "DrainHostRequest" });

/** Each includes what the one before it allows. */
export const SCOPES = ["read", "write", "admin"] as const;
export type Scope = (typeof SCOPES)[number];

const quota = z
  .int()
  .min(0)
  .max(2 ** 31 - 1)
  .nullable();
const Quotas = z.object({
  machines: quota.meta({ description: "Machines that are not destroyed; null = no limit" }),
  cpus: quota.meta({ description: "Of machines that are wanted started" }),
  memory_mb: quota.meta({ description: "Of machines that are wanted started, MiB" }),
  disk_mb: quota.meta({ description: "Of machines that are not destroyed, MiB" }),
});

export const Project = z
  .object({
    id: z.string().meta({ example: "prj_0123456789abcdefghjk" }),
    name: z.string(),
    quotas: Quotas,
    created_at: z.string(),
  })
  .meta({ id: "Project" });
export type Project = z.infer<typeof Project>;

export const CreateProjectRequest = z
  .strictObject({ name: name.meta({ example: "team-1" }), quotas: Quotas.partial().optional() })
  .meta({ id: "CreateProjectRequest" });

export const UpdateProjectRequest = z
  .strictObject({ quotas: Quotas.partial() })
  .meta({ id: "UpdateProjectRequest" });

export const Token = z
  .object({
    id: z.string().meta({ example: "tok_0123456789abcdefghjk" }),
    name: z.string(),
    scope: z.enum(SCOPES),
    project_id: z
      .string()
      .nullable()
      .meta({ description: "Null: a fleet token, good for every project and for the hosts" }),
    created_at: z.string(),
    expires_at: z.string().nullable(),
    revoked_at: z.string().nullable(),
    last_used_at: z.string().nullable().meta({ description: "To the minute" }),
  })
  .meta({ id: "Token" });
export type Token = z.infer<typeof Token>;

export const CreateTokenRequest = z
  .strictObject({
    name: z.string().min(1).max(LIMITS.nameMaxLength),
    scope: z.enum(SCOPES).default("write"),
    fleet: z
      .boolean()
      .default(false)
      .meta({ description: "For every project and the hosts; only a fleet admin may" }),
    expires_in: z
      .int()
      .min(1)
      .max(10 * 365 * 86_400)
      .optional()
      .meta({ description: "Seconds; without it the token is good until it is revoked" }),
  })
  .meta({ id: "CreateTokenRequest" });
export type CreateTokenRequest = z.input<typeof CreateTokenRequest>;

export const CreatedToken = Token.extend({
  token: z.string().meta({ description: "Shown this once" }),
}).meta({ id: "CreatedToken" });
export type CreatedToken = z.infer<typeof CreatedToken>;

export const AuditEntry = z
  .object({
    id: z.string(),
    time: z.string(),
    project_id: z.string(),
    token_id: z.string(),
    request_id: z.string(),
    method: z.string(),
    path: z.string(),
    status: z.int(),
  })
  .meta({ id: "AuditEntry" });
export type AuditEntry = z.infer<typeof AuditEntry>;

export const CreateJoinTokenRequest = z
  .strictObject({
    expires_in: z
      .int()
      .min(1)
      .max(LIMITS.joinTokenTtlMaxS)
      .default(LIMITS.joinTokenTtlS)
      .meta({ description: "Seconds" }),
  })
  .meta({ id: "CreateJoinTokenRequest" });

export const CreatedJoinToken = z
  .object({
    id: z.string(),
    token: z.string().meta({ description: "For the agent's LEVERET_JOIN_TOKEN; shown this once" }),
    expires_at: z.string(),
  })
  .meta({ id: "CreatedJoinToken" });
export type CreatedJoinToken = z.infer<typeof CreatedJoinToken>;

export const RevokedHost = z
  .object({
    host_id: z.string(),
    keys: z.int().meta({ description: "How many keys spoke for the host until now: 0 or 1" }),
  })
  .meta({ id: "RevokedHost" });
export type RevokedHost = z.infer<typeof RevokedHost>;

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
