/**
 * Real processes under random faults: three agents in namespaces of their own over
 * mTLS, two control planes, one PostgreSQL. All the while machines are created,
 * stopped, started and deleted through either replica; all the while somebody counts
 * whether a machine runs twice. It goes in rounds: at the end of each the faults and the
 * requests pause, and everything must come to rest as it was last asked for, within two
 * periods of the reconciler. Every kind of fault has its turn before one comes again.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sql } from "drizzle-orm";
import { Client } from "../../cli/client.ts";
import { openDatabase, type Database } from "../../cp/db/index.ts";
import { RECONCILE_MS } from "../../cp/plane.ts";
import { systemClock } from "../../lib/clock.ts";
import { AUTHORIZATION, TEST_TOKEN } from "../kit/token.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { createDatabase } from "../kit/postgres.ts";
import { until } from "../kit/until.ts";
import { Random } from "../sim/random.ts";
import { ChaosHost } from "./host.ts";

const HOSTS = 3;
const REPLICAS = 2;
const MACHINES_MAX = 9;
const ROUND_MS = 60_000;
const REST_MS = 2 * RECONCILE_MS;
/** A frozen replica takes connections and says nothing. */
const ANSWER_MS = 5_000;
const SECRET_KEY = "5".repeat(64);
const MIB = { cpus: 1, memory_mb: 64, disk_mb: 16 };

const FAULTS = ["cut", "freeze-agent", "kill-agent", "freeze-cp", "kill-cp"] as const;

type Fault = (typeof FAULTS)[number];
type State = "started" | "stopped" | "destroyed";
type Wish = {
  id: string;
  /** The last one that was answered. */
  wish: State;
  /** Requests that broke off: a replica that stood still may carry them out after later ones. */
  maybe: Set<State>;
};

const isState = (state: string): state is State =>
  state === "started" || state === "stopped" || state === "destroyed";

type Say = (line: string) => void;
export type ChaosResult = {
  requests: number;
  faults: number;
  machines: number;
  /** From the last fault of each round until rest. */
  restMs: number[];
};

/** Throws at the first broken promise. When `stop` aborts, the round is the last one. */
export async function runChaos(
  minutes: number,
  seed: number,
  say: Say,
  stop: AbortSignal = new AbortController().signal,
): Promise<ChaosResult> {
  await using chaos = await Chaos.create(seed, say);
  return await chaos.run(minutes * 60_000, stop);
}

class Chaos implements AsyncDisposable {
  readonly #say: Say;
  readonly #random: Random;
  readonly #stack = new AsyncDisposableStack();
  readonly #planes: PlaneChild[] = [];
  readonly #hosts: ChaosHost[] = [];
  readonly #wishes = new Map<string, Wish>();
  readonly #keys = { database: "", dir: "" };
  #database: Database | null = null;
  #requests = 0;
  #faults = 0;
  #machines = 0;
  #broken: Error | null = null;
  #over = false;
  #deck: Fault[] = [];
  /** As each machine was found at rest. */
  readonly #rested = new Map<string, State>();
  /** When it was over. */
  #lastFault = 0;

  private constructor(seed: number, say: Say) {
    this.#random = new Random(seed);
    this.#say = say;
  }

  static async create(seed: number, say: Say): Promise<Chaos> {
    const chaos = new Chaos(seed, say);
    try {
      await chaos.#build();
      return chaos;
    } catch (error) {
      await chaos[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #build(): Promise<void> {
    const dir = mkdtempSync(join(tmpdir(), "lev-chaos-cp-"));
    this.#stack.defer(() => rmSync(dir, { recursive: true, force: true }));
    Object.assign(this.#keys, { dir, database: await createDatabase() });
    this.#database = this.#stack.use(await openDatabase(this.#keys.database));
    for (let number = 0; number < REPLICAS; number += 1)
      this.#planes.push(await this.#startPlane({}));
    this.#stack.defer(async () => {
      for (const plane of this.#planes) await plane.kill();
    });
    const ports = this.#planes.map(({ grpcAddr }) => Number(grpcAddr.split(":").at(-1)));
    for (let number = 0; number < HOSTS; number += 1) {
      const host = this.#stack.use(new ChaosHost(number, ports, await this.#joinToken()));
      this.#hosts.push(host);
      host.start();
    }
    await until("all hosts", async () => {
      const hosts = await this.#client().hosts();
      return hosts.filter(({ state }) => state === "ready").length === HOSTS;
    });
  }

  #startPlane(ports: Record<string, string>): Promise<PlaneChild> {
    const { database, dir } = this.#keys;
    return PlaneChild.start(database, dir, {
      LEVERET_INSECURE_LINK: "0",
      LEVERET_GRPC_HOST: "0.0.0.0",
      LEVERET_SECRET_KEY: SECRET_KEY,
      ...ports,
    });
  }

  async #joinToken(): Promise<string> {
    const url = `${this.#planes[0]?.httpUrl}/v1/hosts/tokens`;
    const headers = { ...AUTHORIZATION, "content-type": "application/json" };
    const response = await fetch(url, { method: "POST", headers, body: "{}" });
    const { token } = (await response.json()) as { token: string };
    return token;
  }

  #client(): Client {
    return new Client({ url: this.#random.pick(this.#planes).httpUrl, token: TEST_TOKEN });
  }

  async run(ms: number, stop: AbortSignal): Promise<ChaosResult> {
    const end = Date.now() + ms;
    const restMs: number[] = [];
    const watched = this.#watch();
    try {
      while (Date.now() < end && this.#broken === null && !stop.aborted)
        restMs.push(await this.#round(Math.min(end, Date.now() + ROUND_MS), stop));
    } finally {
      this.#over = true;
      await watched;
    }
    if (this.#broken !== null) throw this.#broken;
    return { requests: this.#requests, faults: this.#faults, machines: this.#machines, restMs };
  }

  /** Returns how long it took to come to rest. */
  async #round(end: number, stop: AbortSignal): Promise<number> {
    const going = (): boolean => Date.now() < end && this.#broken === null && !stop.aborted;
    await Promise.all([
      this.#repeat(going, 200, 1_500, () => this.#request()),
      this.#repeat(going, 500, 4_000, () => this.#fault(end)),
    ]);
    if (this.#broken === null) await this.#rest();
    const ms = Date.now() - this.#lastFault;
    this.#say(`at rest after ${ms} ms`);
    // What is gone stays gone: should one of them run again, it is a stranger.
    for (const machine of this.#wishes.values()) {
      machine.wish = this.#rested.get(machine.id) ?? machine.wish;
      machine.maybe.clear();
      if (machine.wish === "destroyed") this.#wishes.delete(machine.id);
    }
    return ms;
  }

  async #repeat(
    going: () => boolean,
    low: number,
    high: number,
    work: () => Promise<void>,
  ): Promise<void> {
    while (going()) {
      await systemClock.sleep(this.#random.between(low, high));
      if (going()) await work();
    }
  }

  /** Counts runs until the end. */
  async #watch(): Promise<void> {
    while (!this.#over && this.#broken === null) {
      this.#checkRuns();
      await systemClock.sleep(100);
    }
  }

  #checkRuns(): void {
    const seen = new Map<string, string>();
    for (const host of this.#hosts)
      for (const id of host.running()) {
        const other = seen.get(id);
        if (other !== undefined)
          this.#broken ??= new Error(`${id} runs twice: on ${other} and on ${host.name}`);
        seen.set(id, host.name);
      }
  }

  async #request(): Promise<void> {
    this.#requests += 1;
    const known = [...this.#wishes.values()].filter(({ wish }) => wish !== "destroyed");
    if (known.length < 3 || (known.length < MACHINES_MAX && this.#random.chance(0.35)))
      return this.#create();
    const machine = this.#random.pick(known);
    const wish = this.#random.pick(["stopped", "started", "destroyed", "stopped"] as const);
    const path = `/v1/machines/${machine.id}`;
    const reply =
      wish === "destroyed"
        ? await this.#ask("DELETE", path)
        : await this.#ask("POST", `${path}/${wish === "stopped" ? "stop" : "start"}`, {});
    if (reply !== null && reply.status < 300) machine.wish = wish;
    // Refused is an answer; a broken connection leaves it open.
    else if (reply === null || reply.status >= 500) machine.maybe.add(wish);
  }

  /** Asked with one key until it is answered: one machine, whatever broke in between. */
  async #create(): Promise<void> {
    const key = `chaos-${this.#requests}`;
    const body = { config: { image: "busybox", init: { cmd: ["idle"] }, guest: MIB } };
    for (let attempt = 0; attempt < 60 && this.#broken === null; attempt += 1) {
      const reply = await this.#ask("POST", "/v1/machines", body, key);
      if (reply?.status === 201) {
        const { id } = (await reply.json()) as { id: string };
        this.#machines += 1;
        this.#wishes.set(id, { id, wish: "started", maybe: new Set() });
        return;
      }
      await systemClock.sleep(300);
    }
  }

  /** Null when there was no answer. */
  async #ask(method: string, path: string, body?: unknown, key?: string): Promise<Response | null> {
    try {
      return await fetch(`${this.#random.pick(this.#planes).httpUrl}${path}`, {
        method,
        headers: {
          ...AUTHORIZATION,
          "content-type": "application/json",
          ...(key === undefined ? {} : { "idempotency-key": key }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(ANSWER_MS),
      });
    } catch {
      return null;
    }
  }

  /** Shuffled anew when each has had its turn. */
  #nextFault(): Fault {
    const left = this.#deck.length > 0 ? this.#deck : [...FAULTS];
    const fault = this.#random.pick(left);
    this.#deck = left.filter((one) => one !== fault);
    return fault;
  }

  async #fault(end: number): Promise<void> {
    await this.#strike(end);
    this.#lastFault = Date.now();
  }

  async #strike(end: number): Promise<void> {
    this.#faults += 1;
    const ms = Math.min(
      this.#random.between(100, this.#random.pick([1_000, 6_000, 16_000])),
      Math.max(0, end - Date.now()),
    );
    const host = this.#random.pick(this.#hosts);
    const at = this.#random.between(0, this.#planes.length - 1);
    const plane = this.#planes[at];
    switch (this.#nextFault()) {
      case "cut":
        this.#say(`${host.name} cut off for ${ms} ms`);
        host.namespace.cut();
        await systemClock.sleep(ms);
        return host.namespace.heal();
      case "freeze-agent":
        this.#say(`${host.name} frozen for ${ms} ms`);
        host.freeze();
        await systemClock.sleep(ms);
        return host.thaw();
      case "kill-agent":
        this.#say(`${host.name}: agent killed for ${ms} ms`);
        await host.kill();
        await systemClock.sleep(ms);
        return host.start();
      case "freeze-cp":
        this.#say(`cp-${at} frozen for ${ms} ms`);
        plane?.freeze();
        await systemClock.sleep(ms);
        return plane?.thaw();
      case "kill-cp":
        this.#say(`cp-${at} killed for ${ms} ms`);
        await plane?.kill();
        await systemClock.sleep(ms);
        if (plane !== undefined)
          this.#planes[at] = await this.#startPlane({
            HTTP_PORT: new URL(plane.httpUrl).port,
            GRPC_PORT: plane.grpcAddr.split(":").at(-1) ?? "0",
          });
    }
  }

  async #rest(): Promise<void> {
    this.#say("the faults pause");
    let wrong: string | null = "not asked yet";
    try {
      await until(
        "rest",
        async () => (wrong = await this.#whatIsWrong().catch(String)) === null,
        this.#lastFault + REST_MS - Date.now(),
      );
    } catch {
      throw new Error(`Not at rest ${REST_MS / 1000} s after the last fault: ${wrong}`);
    }
  }

  async #whatIsWrong(): Promise<string | null> {
    const dead = this.#hosts.find(({ alive }) => !alive);
    if (dead !== undefined) return `${dead.name}: the agent has ended`;
    const running = this.#hosts.flatMap((host) => host.running());
    const client = this.#client();
    const hosts = await client.hosts();
    if (hosts.some(({ state }) => state !== "ready")) return "a host is not ready";
    for (const { id, wish, maybe } of this.#wishes.values()) {
      const { state } = await client.machine(id);
      const runs = running.filter((one) => one === id).length;
      if (runs > 1) return `${id} runs ${runs} times`;
      if ((state === "started") !== (runs === 1)) return `${id} is ${state} with ${runs} runs`;
      if (!isState(state)) return `${id} is ${state}`;
      if (state !== wish && !maybe.has(state)) return `${id} is ${state} and was to be ${wish}`;
      this.#rested.set(id, state);
    }
    const unknown = running.find((id) => !this.#wishes.has(id));
    if (unknown !== undefined) return `${unknown} runs and nobody asked for it`;
    return this.#capacityIsWrong();
  }

  async #capacityIsWrong(): Promise<string | null> {
    const rows = await this.#database?.db.execute(sql`
      select h.hostname from hosts h left join placements p on p.host_id = h.id
      group by h.id having
        h.committed_cpus <> coalesce(sum(p.cpus) filter (where p.running), 0)
        or h.committed_memory_mib <> coalesce(sum(p.memory_mib) filter (where p.running), 0)
        or h.committed_disk_mib <> coalesce(sum(p.disk_mib), 0)`);
    const leaked = await this.#database?.db.execute(sql`
      select p.machine_id from placements p join machines m on m.id = p.machine_id
      where p.running <> (m.observed_state = 'started') or m.observed_state = 'destroyed'`);
    if (rows?.length !== 0) return "committed capacity is not the sum of the placements";
    return leaked?.length === 0 ? null : "a placement does not fit its machine";
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}
