/**
 * What runs machines on this host. The driver has no policy: which run should be
 * there is decided by runtime/machine.ts. kvm-driver and fake-driver pass the same
 * suite (tests/agent/driver-suite.ts).
 */
import type { RunMetrics } from "./metrics.ts";
import type { CpuTemplate, GuestProcess, VmmStatus } from "../../proto/vmm.ts";

export type RunRequest = {
  machineId: string;
  incarnation: number;
  cpus: number;
  /** Absent = "host". */
  cpuTemplate?: CpuTemplate;
  memoryMib: number;
  /** Absent = false. */
  hugepages?: boolean;
  /** Size of the scratch disk when it is made; an existing one is kept as it is. */
  diskMib: number;
  kernelPath: string;
  initrdPath: string | null;
  kernelArgs: string;
  /** The image, read-only. */
  squashfsPath: string;
  process: GuestProcess;
  hostname: string;
};

/** One run (incarnation) of a machine that was seen alive. */
export type MachineRun = {
  readonly incarnation: number;
  /** The newest known; never "ended" before the process is gone. */
  readonly status: VmmStatus;
  /** Called at each change of status; not for the end. Returns the unsubscribe. */
  subscribe(listener: (status: VmmStatus) => void): () => void;
  /** Resolves with the last status (phase "ended") when the process is gone. Never rejects. */
  readonly ended: Promise<VmmStatus>;
  /** Counted so far. Throws VMM_FAULT when the VMM does not answer (any more). */
  metrics(): Promise<RunMetrics>;
  /** Asks the image's process to stop (signal 0 = its own); killed after timeoutMs. */
  stop(signal: number, timeoutMs: number): Promise<void>;
  /** Resolves when the process is gone. Safe twice. */
  kill(): Promise<void>;
};

/** What the driver finds of one machine when an agent starts. */
export type Found = {
  machineId: string;
  run: MachineRun | null;
  /** The last word of an earlier run whose process is gone. */
  last: VmmStatus | null;
};

export interface Driver {
  /**
   * Resolves once the run's process exists; its boot is followed through the run.
   * Throws LvError with everything this call made undone. A rejected or aborted
   * start leaves no process, socket or new disk.
   */
  start(request: RunRequest, signal: AbortSignal): Promise<MachineRun>;
  /** All machines that have anything on this host. Called once, before any start. */
  find(): Promise<Found[]>;
  /** Removes whatever the machine has on this host, a process included. Safe twice. */
  destroy(machineId: string): Promise<void>;
  /** lib/output-log.ts file of the machine; it may not exist yet. */
  outputPath(machineId: string): string;
  /** Lets go of the runs without stopping them. */
  close(): void;
}
