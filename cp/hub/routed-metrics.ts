/**
 * A machine's metrics from any replica: its own hub where the host's stream ends here,
 * else the owner's, asked over HTTP. What the owner's hub throws is in the answer.
 */
import { z } from "zod";
import { LvError, isReason } from "../../proto/errors.ts";
import { type MetricsSource, Reading } from "../ops/machine-metrics.ts";
import type { Owners } from "./owners.ts";

export const METRICS_PATH = "/internal/metrics";

export const MetricsQuery = z.object({
  host: z.string().min(1).max(64),
  machine: z.string().min(1).max(64),
});

const Answer = z.union([
  z.object({ reading: Reading }),
  z.object({ error: z.object({ reason: z.string(), message: z.string() }) }),
]);

export class RoutedMetrics implements MetricsSource {
  readonly #owners: Owners;
  readonly #local: MetricsSource;

  constructor(owners: Owners, local: MetricsSource) {
    this.#owners = owners;
    this.#local = local;
  }

  async readMetrics(hostId: string, machineId: string, signal: AbortSignal): Promise<Reading> {
    const url = await this.#owners.elsewhere(hostId);
    return url === null
      ? this.#local.readMetrics(hostId, machineId, signal)
      : this.#ask(url, { host: hostId, machine: machineId }, signal);
  }

  async #ask(
    url: string,
    query: z.infer<typeof MetricsQuery>,
    signal: AbortSignal,
  ): Promise<Reading> {
    let answer: z.infer<typeof Answer>;
    try {
      const response = await fetch(
        `${url}${METRICS_PATH}?${new URLSearchParams(query).toString()}`,
        {
          headers: { authorization: `Bearer ${this.#owners.secret}` },
          signal,
        },
      );
      answer = Answer.parse(await response.json());
    } catch (error) {
      if (signal.aborted) throw new LvError("CANCELLED", "The reader went away");
      throw new LvError("LINK_LOST", "The host's replica does not answer", { cause: error });
    }
    if ("reading" in answer) return answer.reading;
    const { reason, message } = answer.error;
    throw new LvError(isReason(reason) ? reason : "INTERNAL", message);
  }
}

/** The other side of `#ask`: never throws. */
export async function metricsAnswer(
  local: MetricsSource,
  { host, machine }: z.infer<typeof MetricsQuery>,
  signal: AbortSignal,
): Promise<z.infer<typeof Answer>> {
  try {
    return { reading: await local.readMetrics(host, machine, signal) };
  } catch (error) {
    const { reason, message } = LvError.from(error);
    return { error: { reason, message } };
  }
}
