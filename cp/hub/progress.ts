/** The newest image progress per machine or image job, in memory only: it is worth nothing after a restart. */
import type { z } from "zod";
import type { BuildProgress } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { ImageProgress } from "../../proto/rest.ts";
import type { MachineState } from "../../proto/states.ts";
import { progressFromWire } from "./wire.ts";

export type Progress = z.infer<typeof ImageProgress>;

export class ProgressBoard {
  readonly #byMachine = new Map<string, Progress>();

  put(message: BuildProgress): void {
    const progress = progressFromWire(message);
    if (progress !== null) this.#byMachine.set(message.machineId, progress);
  }

  get(machineId: string): Progress | null {
    return this.#byMachine.get(machineId) ?? null;
  }

  /** Of an image job that has ended. */
  forget(jobId: string): void {
    this.#byMachine.delete(jobId);
  }

  /** Once the machine is past its image, the progress is history. */
  settle(machineId: string, state: MachineState): void {
    if (state !== "starting") this.#byMachine.delete(machineId);
  }
}
