/** What a running machine has counted: asked of its host each time, and never stored. */
import { z } from "zod";
import { LvError } from "../../proto/errors.ts";
import { MachineMetrics } from "../../proto/rest.ts";
import type { MachineRow } from "../db/schema/machines.ts";

/** As a host tells it: which run of the machine it was is a number there. */
export const Reading = MachineMetrics.omit({ instance_id: true }).extend({
  incarnation: z.int().min(0),
});
export type Reading = z.infer<typeof Reading>;

/** The hub, as far as metrics need it. */
export interface MetricsSource {
  /**
   * Throws HOST_UNAVAILABLE or LINK_LOST when the host is not there (any more), else
   * the host's own error: STATE_CONFLICT for a machine that does not run.
   */
  readMetrics(hostId: string, machineId: string, signal: AbortSignal): Promise<Reading>;
}

/** Throws STATE_CONFLICT for a machine that does not run. */
export async function readMetrics(
  source: MetricsSource,
  machine: MachineRow,
  signal: AbortSignal,
): Promise<Reading> {
  const { hostId, observedState } = machine;
  if (hostId === null)
    throw new LvError(
      "STATE_CONFLICT",
      `Machine "${machine.name}" is ${observedState}: it counts nothing`,
    );
  return source.readMetrics(hostId, machine.id, signal);
}
