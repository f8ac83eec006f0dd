/**
 * A machine's metrics from any replica: its own hub where the host's stream ends here,
 * else the owner's, asked over HTTP. What the owner's hub throws is in the answer.
 */
import { z } from "zod";
import { LvError, isReason } from "../../proto/errors.ts";
import { findOwner } from "../db/queries/replicas.ts";
import type { Deps } from "../ops/deps.ts";
import { type MetricsSource, Reading } from "../ops/machine-metrics.ts";
import type { Registry } from "./registry.ts";

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
  readonly #deps: Deps;
  readonly #registry: Registry;
  readonly #local: MetricsSource;
  readonly #replica: { id: string; secret: string };

  constructor(
    deps: Deps,
    registry: Registry,
    local: MetricsSource,
    replica: { id: string; secret: string },
  ) {
    this.#deps = deps;
    this.#registry = registry;
    this.#local = local;
    this.#replica = replica;
  }

  async readMetrics(hostId: string, machineId: string, signal: AbortSignal): Promise<Reading> {
    if (this.#registry.get(hostId) === undefined) {
      const owner = await findOwner(this.#deps.database.db, hostId);
      if (owner !== null && owner.id !== this.#replica.id)
        return this.#ask(owner.url, { host: hostId, machine: machineId }, signal);
    }
    return this.#local.readMetrics(hostId, machineId, signal);
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
          headers: { authorization: `Bearer ${this.#replica.secret}` },
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
