/** What Prometheus is told: requests as they end, the fleet as it is when asked. */
import type { MiddlewareHandler } from "hono";
import { matchedRoutes } from "hono/route";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { HOST_STATES, MACHINE_STATES } from "../../proto/states.ts";
import { listHosts } from "../db/queries/hosts.ts";
import { countByState } from "../db/queries/machines.ts";
import { countOpen } from "../db/queries/ops.ts";
import type { Env, HttpDeps } from "./deps.ts";

const BUCKETS_S = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300];

export class Metrics {
  readonly #registry = new Registry();
  readonly #deps: HttpDeps;
  readonly #requests: Histogram;
  readonly #errors: Counter;
  readonly #hosts: Gauge;
  readonly #machines: Gauge;
  readonly #capacity: Gauge;
  readonly #committed: Gauge;
  readonly #ops: Gauge;
  readonly #relayed: Gauge;
  readonly #memory: Gauge;

  constructor(deps: HttpDeps) {
    this.#deps = deps;
    const registers = [this.#registry];
    const gauge = (name: string, help: string, labelNames: string[]): Gauge =>
      new Gauge({ name, help, labelNames, registers });
    this.#requests = new Histogram({
      name: "leveret_http_request_seconds",
      help: "Time to the answer's head",
      labelNames: ["method", "route", "status"],
      buckets: BUCKETS_S,
      registers,
    });
    this.#errors = new Counter({
      name: "leveret_http_server_errors_total",
      help: "Answers with a status of 500 or more",
      labelNames: ["route"],
      registers,
    });
    this.#hosts = gauge("leveret_hosts", "Hosts by state", ["state"]);
    this.#machines = gauge("leveret_machines", "Machines by state", ["state"]);
    this.#capacity = gauge("leveret_capacity", "What ready hosts offer", ["resource"]);
    this.#committed = gauge("leveret_committed", "What machines hold on them", ["resource"]);
    this.#ops = gauge("leveret_open_ops", "Ops that their hosts have not finished", []);
    this.#relayed = gauge(
      "leveret_relayed_sessions",
      "Sessions passed from replica to replica",
      [],
    );
    this.#memory = gauge("leveret_process_resident_bytes", "Memory of this process", []);
  }

  middleware(): MiddlewareHandler<Env> {
    return async (c, next) => {
      const began = performance.now();
      await next();
      // The pattern, not the path: one series per route, whatever callers make up.
      const handlers = matchedRoutes(c).filter(({ path }) => path !== "/*" && path !== "*");
      const route = handlers.at(-1)?.path ?? "none";
      const status = c.res.status;
      const labels = { method: c.req.method, route, status: String(status) };
      this.#requests.observe(labels, (performance.now() - began) / 1000);
      if (status >= 500) this.#errors.inc({ route });
    };
  }

  async text(): Promise<string> {
    const { db } = this.#deps.database;
    const [hosts, machines, ops] = await Promise.all([
      listHosts(db),
      countByState(db),
      countOpen(db),
    ]);
    for (const state of HOST_STATES)
      this.#hosts.set({ state }, hosts.filter((host) => host.state === state).length);
    for (const state of MACHINE_STATES) this.#machines.set({ state }, machines.get(state) ?? 0);
    const ready = hosts.filter((host) => host.state === "ready");
    const sum = (pick: (host: (typeof hosts)[number]) => number): number =>
      ready.reduce((total, host) => total + pick(host), 0);
    this.#capacity.set(
      { resource: "cpus" },
      sum((host) => host.capacityCpus),
    );
    this.#capacity.set(
      { resource: "memory_mib" },
      sum((host) => host.capacityMemoryMib),
    );
    this.#capacity.set(
      { resource: "disk_mib" },
      sum((host) => host.capacityDiskMib),
    );
    this.#committed.set(
      { resource: "cpus" },
      sum((host) => host.committedCpus),
    );
    this.#committed.set(
      { resource: "memory_mib" },
      sum((host) => host.committedMemoryMib),
    );
    this.#committed.set(
      { resource: "disk_mib" },
      sum((host) => host.committedDiskMib),
    );
    this.#ops.set(ops);
    this.#relayed.set(this.#deps.internal.attach.relayed);
    this.#memory.set(process.memoryUsage.rss());
    return this.#registry.metrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }
}
