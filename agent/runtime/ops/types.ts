/** What an operation on a machine works with. machine.ts and fleet.ts implement it. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Clock } from "../../../lib/clock.ts";
import type { Log } from "../../../lib/log.ts";
import type {
  BuildProgress,
  ImageInventory,
  MachineSpec,
  MachineStatus,
  MachineStatusSchema,
  Result,
} from "../../../proto/gen/leveret/v1/agent_pb.js";
import type { Capacity } from "../../config.ts";
import type { Images } from "../../images/types.ts";
import type { Driver, MachineRun } from "../driver.ts";
import type { Journal } from "../journal.ts";
import type { Kernels } from "../kernels.ts";
import type { Logins } from "../logins.ts";
import type { Semaphore } from "../semaphore.ts";

/** What the agent tells upward; whoever listens may be away, the journal is not. */
export type AgentEvent =
  | { case: "status"; value: MachineStatus }
  | { case: "result"; value: Result }
  | { case: "progress"; value: BuildProgress }
  | { case: "images"; value: ImageInventory };

export type HostServices = {
  driver: Driver;
  images: Images;
  kernels: Kernels;
  journal: Journal;
  logins: Logins;
  clock: Clock;
  log: Log;
  /** Bounds how many machines are put together at once (LIMITS.agentConcurrentOps). */
  work: Semaphore;
  /** Aborts when the agent leaves; machines stay as they are. */
  shutdown: AbortSignal;
  emit(event: AgentEvent): void;
  /** Throws NO_CAPACITY when the machine does not fit beside the others. */
  checkRoom(machineId: string, need: Capacity): void;
};

export type StatusPatch = Omit<MessageInitShape<typeof MachineStatusSchema>, "$typeName">;

export type MachineHandle = {
  readonly id: string;
  readonly status: MachineStatus;
  readonly run: MachineRun | null;
  /** Journals the new status under the next sequence, then announces it. */
  update(patch: StatusPatch, spec?: MachineSpec): void;
  /** Follows the run until its end; the machine's status is the run's from now on. */
  attach(run: MachineRun): void;
};
