/**
 * `bun run bench hub`: one control plane with many agents, each on a connection of its
 * own, from two client processes on the same machine. Memory is what the control plane
 * holds alone (Private_Dirty) over what it held idle. An op's round trip is a request
 * through REST, its transaction, the op down the stream, the agent's answer, and the
 * stored state that ends a wait.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { GC_ON_SIGNAL, PlaneChild } from "../kit/plane-child.ts";
import { createDatabase } from "../kit/postgres.ts";
import { AUTHORIZATION } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { type Figure, makeFigure, quantile } from "./report.ts";

export const HUB_USAGE = "hub [--agents N,N,…] [--rate OPS] [--seconds N]";

const AGENTS = join(import.meta.dir, "hub-agents.ts");
const CLIENTS = 2;
const HERD = 1_000;
const OPS_AT = 5_000;
const MACHINES = 400;
const READY_MS = 300_000;

type Say = (line: string) => void;

class Agents implements Disposable {
  readonly #children: Bun.Subprocess<"ignore", "pipe", "inherit">[];
  readonly #open: number[] = [];

  constructor(address: string, count: number) {
    this.#children = Array.from({ length: CLIENTS }, (_, number) => {
      const child = Bun.spawn([process.execPath, AGENTS, address, String(count / CLIENTS)], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      void this.#count(number, child.stdout);
      return child;
    });
  }

  get open(): number {
    return this.#open.reduce((sum, one) => sum + one, 0);
  }

  async #count(number: number, stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      const last = decoder.decode(chunk).trim().split("\n").at(-1);
      this.#open[number] = Number(last);
    }
  }

  [Symbol.dispose](): void {
    for (const child of this.#children) child.kill("SIGKILL");
  }
}

/** KiB that no other process shares. */
function privateKib(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Private_Dirty:\s+(\d+) kB/m.exec(text)?.[1]);
}

/** The least of several looks, each after a collection: allocators give back slowly. */
async function settledKib(plane: PlaneChild): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let look = 0; look < 6; look += 1) {
    plane.collect();
    await Bun.sleep(500);
    least = Math.min(least, privateKib(plane.pid));
  }
  return least;
}

export async function benchHub(args: string[], say: Say): Promise<Figure[]> {
  const { values } = parseArgs({
    args,
    options: {
      agents: { type: "string", default: "1000,5000,10000" },
      rate: { type: "string", default: "500" },
      seconds: { type: "string", default: "10" },
    },
  });
  const figures: Figure[] = [];
  const one = (figure: string, unit: string, samples: number[]): void =>
    void figures.push(makeFigure({ bench: "hub", figure, unit }, samples, null));
  for (const count of values.agents.split(",").map(Number)) {
    const dir = mkdtempSync(join(tmpdir(), "lev-bench-"));
    try {
      const database = await createDatabase();
      await using plane = await PlaneChild.start(database, dir, GC_ON_SIGNAL);
      const idle = await settledKib(plane);
      using agents = new Agents(plane.grpcAddr, count);
      const began = performance.now();
      await until(`${count} agents`, () => agents.open >= count, READY_MS);
      const seconds = (performance.now() - began) / 1000;
      const each = ((await settledKib(plane)) - idle) / count;
      say(`${count} agents in ${seconds.toFixed(1)} s, ${each.toFixed(1)} KiB each`);
      one(`memory_per_agent_kib_${count}`, "KiB", [each]);
      if (count === OPS_AT) {
        const times = await runOps(plane, Number(values.rate), Number(values.seconds), say);
        one("op_p50_ms", "ms", [quantile(times, 0.5)]);
        one("op_p99_ms", "ms", [quantile(times, 0.99)]);
      }
      if (count === HERD) one("herd_1000_s", "s", [await herd(plane, database, dir, agents, say)]);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }
  return figures;
}

/** Seconds from the start of a new control plane until every agent has come back. */
async function herd(
  plane: PlaneChild,
  database: string,
  dir: string,
  agents: Agents,
  say: Say,
): Promise<number> {
  await plane.kill();
  await until("the agents to notice", () => agents.open === 0, READY_MS);
  const began = performance.now();
  await using _again = await PlaneChild.start(database, dir, {
    HTTP_PORT: new URL(plane.httpUrl).port,
    GRPC_PORT: plane.grpcAddr.split(":").at(-1) ?? "0",
  });
  await until("all agents back", () => agents.open >= HERD, READY_MS);
  const seconds = (performance.now() - began) / 1000;
  say(`${HERD} agents back in ${seconds.toFixed(1)} s`);
  return seconds;
}

/** Milliseconds of each round trip. Requests leave at the given rate, answered or not. */
async function runOps(
  plane: PlaneChild,
  rate: number,
  seconds: number,
  say: Say,
): Promise<number[]> {
  const ask = async (method: string, path: string, body?: unknown): Promise<Response> =>
    fetch(`${plane.httpUrl}${path}`, {
      method,
      headers: { ...AUTHORIZATION, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  const ids: string[] = [];
  for (let number = 0; number < MACHINES; number += 1) {
    const reply = await ask("POST", "/v1/machines", { config: { image: "busybox" } });
    ids.push(((await reply.json()) as { id: string }).id);
  }
  for (const id of ids) await ask("GET", `/v1/machines/${id}/wait?state=started&timeout=60`);
  const times: number[] = [];
  let refused = 0;
  const turn = async (id: string, verb: "stop" | "start"): Promise<void> => {
    const from = performance.now();
    const asked = await ask("POST", `/v1/machines/${id}/${verb}`, {});
    const state = verb === "stop" ? "stopped" : "started";
    const waited = await ask("GET", `/v1/machines/${id}/wait?state=${state}&timeout=60`);
    if (asked.ok && waited.ok) times.push(performance.now() - from);
    else refused += 1;
  };
  const began = performance.now();
  const turns: Promise<void>[] = [];
  const last = new Map<string, Promise<void>>();
  for (let number = 0; number < rate * seconds; number += 1) {
    const id = ids[number % ids.length] ?? "";
    const verb = Math.floor(number / ids.length) % 2 === 0 ? "stop" : "start";
    // One after the other on one machine; the next machine does not wait.
    const done = (last.get(id) ?? Promise.resolve()).then(() => turn(id, verb));
    last.set(id, done);
    turns.push(done);
    const due = began + (number * 1_000) / rate;
    if (due > performance.now()) await Bun.sleep(due - performance.now());
  }
  await Promise.all(turns);
  const took = (performance.now() - began) / 1000;
  say(
    `${times.length} ops in ${took.toFixed(1)} s (${(times.length / took).toFixed(0)}/s), ${refused} refused`,
  );
  return times;
}
