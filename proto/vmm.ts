/**
 * The contract between the agent's supervisor and a VMM process, and nothing
 * else: this file imports no runtime code, because every MiB is paid per machine.
 *
 * A machine's directory (`<agent dir>/machines/<machine id>/`):
 *   spec.json            VmmSpec, written by the supervisor before the spawn
 *   pool.json            until there is a spec.json: VmmExpected;
 *                        also names the process's first directory in its arguments
 *   status.json          VmmStatus, replaced atomically by the VMM at each change,
 *                        before the change is announced; the last word on how a run
 *                        ended, whoever was alive to hear it
 *   control.sock         the VMM listens: newline-delimited JSON, see below
 *   vsock.sock(_PORT)    vsock mapping; the VMM listens on vsock.sock_1024 for init
 *   output.log(.1)       the process's output, lib/output-log.ts; outlives runs
 *   console.log          what the guest kernel said (serial), bounded, per run
 *   vmm.log              standard error of the VMM; its last line is VmmLastError
 *   scratch.ext4         writable disk under the root overlay
 *   passt.sock           the user-mode network stack listens: frames, see native/leveret.h
 */
import type { Reason } from "./errors.ts";

export type VmmSpec = {
  version: 1;
  machineId: string;
  incarnation: number;
  cpus: number;
  /** Absent = "host". */
  cpuTemplate?: CpuTemplate;
  memoryMib: number;
  /** Of 2 MiB; absent = false. Refused when the host has not enough of them. */
  hugepages?: boolean;
  kernelPath: string;
  /** null = no initrd */
  initrdPath: string | null;
  /** Appended to the VMM's own command line. */
  kernelArgs: string;
  /** In order: the first is /dev/vda. The rootfs squashfs, then the scratch disk. */
  disks: { path: string; readOnly: boolean; id: string; limit?: VmmLimit }[];
  /** In order: the first is eth0. */
  networks: VmmNetwork[];
  process: GuestProcess;
  hostname: string;
  /** The guest's /etc/resolv.conf; "" = the image's own. */
  resolvConf: string;
  outputLimitBytes: number;
  /** From the start of the VMM process to the first frame of init. */
  initTimeoutMs: number;
};

/** host: all that KVM offers. baseline: what every host of a fleet has (agent/vmm/cpu-baseline.ts). */
export const CPU_TEMPLATES = ["host", "baseline"] as const;
export type CpuTemplate = (typeof CPU_TEMPLATES)[number];

export type VmmNetwork = {
  /** tap: an interface of the host, by name. passt: a user-mode stack, by its socket's path. */
  kind: "tap" | "passt";
  name: string;
  /** tap: open already, and inherited as this descriptor; absent = opened by its name. */
  fd?: number;
  /** "02:00:00:00:00:01" */
  mac: string;
  mtu: number;
  /** What init gives the interface: IPv4 "address/prefix", and the default route's gateway. */
  address: string;
  gateway: string;
  /** Into the guest, out of it; absent = no limit. */
  rx?: VmmLimit;
  tx?: VmmLimit;
};

/** Token buckets: a rate of 0 (or absent) is no limit, a burst of 0 a second's worth. */
export type VmmLimit = {
  bytesRate?: number;
  bytesBurst?: number;
  opsRate?: number;
  opsBurst?: number;
};

/** pool.json: the machine that a process started ahead is to be ready for. */
export type VmmExpected = Pick<
  VmmSpec,
  "cpus" | "cpuTemplate" | "memoryMib" | "hugepages" | "kernelPath" | "initrdPath"
>;

export type GuestProcess = {
  argv: string[];
  /** "KEY=value" */
  env: string[];
  cwd: string;
  /** As in the OCI config: "", "user", "uid", "user:group", "uid:gid"; resolved in the guest. */
  user: string;
  /** Sent by "stop" when it names no signal. */
  stopSignal: number;
};

/**
 * booting → running → ended, or booting → ended. "paused" is running, held still.
 * "stopping" is running after a stop was asked for. "ended" is final: the process
 * leaves within a second. "waiting" is a process without a machine yet.
 */
export type VmmPhase = "waiting" | "booting" | "running" | "paused" | "stopping" | "ended";

export type VmmStatus = {
  machineId: string;
  incarnation: number;
  pid: number;
  /** Field 22 of /proc/<pid>/stat; with pid it names the process for good. */
  pidStartTime: number;
  phase: VmmPhase;
  /** VMM process start (or boot of a process that waited) → vCPUs run, microseconds. */
  entryUs?: number;
  /** The same start → first frame of init. */
  bootUs?: number;
  startedAtMs?: number;
  endedAtMs?: number;
  /** Set when the image's process ran and ended; 128 + signal when killed. */
  exitCode?: number;
  exitSignal?: number;
  /** Set when the machine ended without its process having ended by itself. */
  reason?: Reason;
  message?: string;
};

/** agent/vmm/actions.ts has the table of which phase allows which. */
export type VmmAction = VmmRequest["action"];

/** Requests: one JSON object a line; replies carry the same id. */
export type VmmRequest =
  | { id: number; action: "status" }
  /** The reply carries VmmMetrics. */
  | { id: number; action: "metrics" }
  /** Reads spec.json, which is there now. */
  | { id: number; action: "boot" }
  | { id: number; action: "pause" }
  | { id: number; action: "resume" }
  /** How much memory the guest is to give back; it may take it again rather than run out. */
  | { id: number; action: "balloon"; mib: number }
  /** The guest is asked to switch itself off (its init, and its power button); killed after timeoutMs. */
  | { id: number; action: "shutdown"; timeoutMs: number }
  /** Ends the run at once, without an exit code: whoever starts machines begins the next. */
  | { id: number; action: "reset" }
  /** Sends a signal to the image's process (0 = its stopSignal), kills the machine after timeoutMs. */
  | { id: number; action: "stop"; signal: number; timeoutMs: number }
  | { id: number; action: "kill" }
  | { id: number; action: "signal"; signal: number };

export type VmmReply =
  | { id: number; ok: true; metrics?: VmmMetrics }
  | { id: number; ok: false; reason: Reason; message: string };

/** Counters of one run; they only grow. */
export type VmmMetrics = {
  vcpus: { exitsPio: number; exitsMmio: number; exitsIntr: number; exitsOther: number }[];
  /** In the order of the guest's devices. */
  devices: {
    kind: string;
    notifies: number;
    interrupts: number;
    requests: number;
    bytesIn: number;
    bytesOut: number;
    throttled: number;
    malformed: number;
    dropped: number;
    errors: number;
  }[];
  /** Bytes; what the guest says of itself is as of the request before. Absent before the start. */
  balloon?: { target: number; actual: number; free: number; available: number };
};

/** Pushed to every client: at once after it connects, then at each change. */
export type VmmPush = { status: VmmStatus };

/** The descriptor of the interface that native/jail made (TAP_FD there). */
export const TAP_FD = 3;

/** Exit codes of the VMM process. Everything but `ended` leaves a VmmLastError line. */
export const VMM_EXIT = {
  ended: 0,
  usage: 64,
  specInvalid: 65,
  kernelInvalid: 66,
  kvmMissing: 67,
  noCapacity: 68,
  guestFault: 69,
  guestInitTimeout: 70,
  vmmFault: 71,
} as const;

export type VmmLastError = { reason: Reason; message: string };

export const VMM_FILES = {
  spec: "spec.json",
  pool: "pool.json",
  status: "status.json",
  control: "control.sock",
  vsock: "vsock.sock",
  output: "output.log",
  console: "console.log",
  log: "vmm.log",
  scratch: "scratch.ext4",
  passt: "passt.sock",
} as const;
