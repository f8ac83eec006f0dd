import { MachineMetrics } from "../../../proto/rest.ts";
import { findMachine } from "../../ops/find.ts";
import { readMetrics } from "../../ops/machine-metrics.ts";
import { guard } from "../auth.ts";
import type { App, HttpDeps } from "../deps.ts";
import { prometheusText } from "../prometheus.ts";
import { createRoute, failure, MachineRef, z } from "../schemas.ts";
import { instanceId } from "../view.ts";

const PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8";

const metrics = createRoute({
  method: "get",
  path: "/v1/machines/{id}/metrics",
  summary: "What the machine's run has counted",
  description:
    "Asked of its host at that moment; STATE_CONFLICT when it does not run. `format=prometheus` gives the same in Prometheus' text format, one machine per scrape.",
  request: {
    params: MachineRef,
    query: z.object({ format: z.enum(["json", "prometheus"]).default("json") }),
  },
  responses: {
    200: {
      description: "The metrics",
      content: {
        "application/json": { schema: MachineMetrics },
        "text/plain": { schema: z.string() },
      },
    },
    default: failure,
  },
  ...guard("read"),
});

export function machineMetricsRoutes(app: App, deps: HttpDeps): void {
  app.openapi(metrics, async (c) => {
    const machine = await findMachine(deps, c.get("principal").projectId, c.req.valid("param").id);
    const signal = AbortSignal.any([c.req.raw.signal, deps.shutdown]);
    const { incarnation, ...reading } = await readMetrics(deps.metrics, machine, signal);
    const body = { ...reading, instance_id: instanceId(machine.id, incarnation) };
    return c.req.valid("query").format === "prometheus"
      ? c.text(prometheusText(machine, body), 200, { "content-type": PROMETHEUS })
      : c.json(body, 200);
  });
}
