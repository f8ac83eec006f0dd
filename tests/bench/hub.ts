/**
 * `bun run bench hub`: one control plane with many agents, each on a connection of its
 * own, from a client process on the same machine. In parts, which may be run alone:
 *
 *   memory  what the control plane holds alone (Private_Dirty) over what it held idle,
 *           for each agent; and how many heartbeats a second reach the database
 *   herd    1,000 agents lose their control plane and come back to the next
 *   ops     round trips of ops at a given rate with 5,000 agents: see hub-ops.ts
 *   rest    the same through REST and back to a wait, with 5,000 agents: see hub-rest.ts
 *   echo    the hub's way of speaking gRPC beside @grpc/grpc-js: see echo.ts
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { connect } from "../../cp/db/index.ts";
import { LIMITS } from "../../lib/limits.ts";
import { GC_ON_SIGNAL, PlaneChild } from "../kit/plane-child.ts";
import { createDatabase } from "../kit/postgres.ts";
import { until } from "../kit/until.ts";
import { benchEcho } from "./echo.ts";
import { runOps } from "./hub-ops.ts";
import { runRestOps } from "./hub-rest.ts";
import { Lines, settledKib } from "./memory.ts";
import { type Figure, makeFigure, quantile } from "./report.ts";

export const HUB_USAGE =
  "hub [--parts memory,herd,ops,rest,echo] [--agents N,N,…] [--rate OPS] [--rest-rate OPS] [--seconds N]";

const AGENTS = join(import.meta.dir, "hub-agents.ts");
const HERD = 1_000;
const OPS_AT = 5_000;
const READY_MS = 120_000;

type Say = (line: string) => void;
type Part = (options: Options, say: Say) => Promise<Figure[]>;
type Options = { agents: number[]; rate: number; restRate: number; seconds: number };

const PARTS: Readonly<Record<string, Part>> = {
  memory,
  herd,
  ops,
  rest,
  echo: (_, say) => benchEcho(say),
};

export async function benchHub(args: string[], say: Say): Promise<Figure[]> {
  const { values } = parseArgs({
    args,
    options: {
      parts: { type: "string", default: Object.keys(PARTS).join(",") },
      agents: { type: "string", default: "1000,5000,10000" },
      rate: { type: "string", default: "500" },
      "rest-rate": { type: "string", default: "50" },
      seconds: { type: "string", default: "10" },
    },
  });
  const options = {
    agents: values.agents.split(",").map(Number),
    rate: Number(values.rate),
    restRate: Number(values["rest-rate"]),
    seconds: Number(values.seconds),
  };
  const figures: Figure[] = [];
  for (const name of values.parts.split(",")) {
    const part = PARTS[name];
    if (part === undefined) throw new Error(`No part "${name}": ${HUB_USAGE}`);
    figures.push(...(await part(options, say)));
  }
  return figures;
}

function one(figure: string, unit: string, value: number): Figure {
  return makeFigure({ bench: "hub", figure, unit }, [value], null);
}

class Agents implements Disposable {
  readonly #lines: Lines;
  readonly #done = new Map<string, number>();
  #open = 0;

  constructor(address: string, count: number) {
    this.#lines = new Lines([process.execPath, AGENTS, address, String(count)]);
    void this.#count();
  }

  get open(): number {
    return this.#open;
  }

  /** When the op's agent was told to forget it. */
  done(opId: string): number | undefined {
    return this.#done.get(opId);
  }

  async #count(): Promise<void> {
    try {
      for (;;) {
        const [word = "", first = "", second = ""] = (await this.#lines.next()).split(" ");
        if (word === "open") this.#open = Number(first);
        else this.#done.set(first, Number(second));
      }
    } catch {
      // It was killed: that is how it ends.
    }
  }

  [Symbol.dispose](): void {
    this.#lines[Symbol.dispose]();
  }
}

/** `database`: null = the control plane's own PostgreSQL, as it comes. */
type Fleet = { plane: PlaneChild; agents: Agents; database: string | null; dir: string };

async function withFleet<T>(
  count: number,
  own: boolean,
  say: Say,
  work: (fleet: Fleet & { idleKib: number }) => Promise<T>,
): Promise<T> {
  const dir = mkdtempSync(join(tmpdir(), "lev-bench-"));
  // As root PostgreSQL runs as another user, who has to get in.
  chmodSync(dir, 0o755);
  try {
    const database = own ? null : await preparedDatabase();
    const plane = await PlaneChild.start(database ?? "", dir, GC_ON_SIGNAL);
    try {
      const idleKib = await settledKib(plane.pid);
      const began = performance.now();
      using agents = new Agents(plane.grpcAddr, count);
      await until(`${count} agents`, () => agents.open >= count, READY_MS);
      say(`${count} agents in ${((performance.now() - began) / 1000).toFixed(1)} s`);
      return await work({ plane, agents, database, dir, idleKib });
    } finally {
      await (own ? plane.end() : plane.kill());
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** With what its own PostgreSQL has: statements that are kept. */
async function preparedDatabase(): Promise<string> {
  const url = new URL(await createDatabase());
  url.searchParams.set("prepare", "true");
  return url.href;
}

async function memory({ agents: counts }: Options, say: Say): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const count of counts)
    await withFleet(count, false, say, async ({ plane, database, idleKib }) => {
      const each = ((await settledKib(plane.pid)) - idleKib) / count;
      figures.push(one(`memory_per_agent_kib_${count}`, "KiB", each));
      const beats = await heartbeatsPerSecond(database ?? "");
      figures.push(one(`heartbeats_per_second_${count}`, "1/s", beats));
      say(`${each.toFixed(1)} KiB each; ${beats.toFixed(0)} heartbeats a second`);
    });
  return figures;
}

/** By the hosts that the database has heard of within one interval. */
async function heartbeatsPerSecond(database: string): Promise<number> {
  // What Hello wrote is older than an interval then.
  await Bun.sleep(LIMITS.heartbeatIntervalMs);
  const seconds = LIMITS.heartbeatIntervalMs / 1_000;
  const sql = connect(database, { max: 1, onnotice: () => undefined });
  try {
    const rows = await sql<{ heard: number }[]>`
      select count(*)::int as heard from hosts
      where last_seen_at > now() - make_interval(secs => ${seconds})`;
    return (rows[0]?.heard ?? 0) / seconds;
  } finally {
    await sql.end();
  }
}

/** Seconds from the start of a new control plane until every agent has come back. */
async function herd(_: Options, say: Say): Promise<Figure[]> {
  return withFleet(HERD, false, say, async ({ plane, agents, database, dir }) => {
    await plane.kill();
    await until("the agents to notice", () => agents.open === 0, READY_MS);
    const began = performance.now();
    await using _again = await PlaneChild.start(database ?? "", dir, {
      HTTP_PORT: new URL(plane.httpUrl).port,
      GRPC_PORT: plane.grpcAddr.split(":").at(-1) ?? "0",
    });
    await until("all agents back", () => agents.open >= HERD, READY_MS);
    const seconds = (performance.now() - began) / 1000;
    say(`${HERD} agents back in ${seconds.toFixed(1)} s`);
    return [one("herd_1000_s", "s", seconds)];
  });
}

async function ops(options: Options, say: Say): Promise<Figure[]> {
  return withFleet(OPS_AT, false, say, async ({ database, agents }) => {
    const times = await runOps(database ?? "", (id) => agents.done(id), options, say);
    return [
      one("op_p50_ms", "ms", quantile(times, 0.5)),
      one("op_p99_ms", "ms", quantile(times, 0.99)),
    ];
  });
}

async function rest({ restRate, seconds }: Options, say: Say): Promise<Figure[]> {
  return withFleet(OPS_AT, true, say, async ({ plane }) => {
    const times = await runRestOps(plane.httpUrl, restRate, seconds, say);
    return [
      one(`rest_op_p50_ms_at_${restRate}`, "ms", quantile(times, 0.5)),
      one(`rest_op_p99_ms_at_${restRate}`, "ms", quantile(times, 0.99)),
    ];
  });
}
