/**
 * The whole system in one process: a real PostgreSQL, a control plane on free ports,
 * N agents with the fake driver over real gRPC streams, and a REST client.
 *
 *   await using world = await World.create({ agents: 2 });
 *
 * The end is a leak check: every machine is deleted, and then no run, no machine
 * directory, no placement and no waiter may be left.
 */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AgentOverrides } from "../../agent/server.ts";
import type { FakeDriverOptions } from "../../agent/runtime/fake-driver.ts";
import { Client } from "../../cli/client.ts";
import { type ControlPlane, startControlPlane } from "../../cp/server.ts";
import { silentLog } from "../../lib/log.ts";
import type { Machine, MachineConfigInput } from "../../proto/rest.ts";
import { createDatabase } from "./postgres.ts";
import { TEST_TOKEN } from "./token.ts";
import { TestAgent } from "./test-agent.ts";
import { until } from "./until.ts";

export type WorldOptions = {
  agents?: number;
  /** Certificates on the link; plain h2c otherwise. */
  mtls?: boolean;
  agent?: AgentOverrides;
  driver?: Partial<FakeDriverOptions>;
};

/** `dataDir`: for the secret key; null = a plain link, which has none. */
type Where = { database: string; dataDir: string | null };

type MachineWishes = Omit<MachineConfigInput, "image"> & { image?: string; name?: string };

export class World implements AsyncDisposable {
  readonly agents: TestAgent[] = [];
  readonly #where: Where;
  #plane: ControlPlane;
  #client: Client;

  private constructor(where: Where, plane: ControlPlane) {
    this.#where = where;
    this.#plane = plane;
    this.#client = new Client({ url: plane.httpUrl, token: TEST_TOKEN });
  }

  static async create(options: WorldOptions = {}): Promise<World> {
    const dataDir = options.mtls === true ? mkdtempSync(join(tmpdir(), "lev-world-")) : null;
    const where = { database: await createDatabase(), dataDir };
    const world = new World(where, await startPlane(where, 0, 0));
    for (let number = 0; number < (options.agents ?? 1); number += 1) {
      const link =
        dataDir === null
          ? {}
          : { insecureLink: false, joinToken: (await world.client.joinToken()).token };
      const config = { hostName: `host-${number}`, ...link, ...options.agent?.config };
      const overrides = { ...options.agent, config };
      world.agents.push(await TestAgent.start(world.plane.grpcAddr, overrides, options.driver));
    }
    await world.untilReady(world.agents.length);
    return world;
  }

  get plane(): ControlPlane {
    return this.#plane;
  }

  get client(): Client {
    return this.#client;
  }

  /** The only agent. */
  get agent(): TestAgent {
    const [only] = this.agents;
    if (only === undefined) throw new Error("This world has no agent");
    return only;
  }

  async untilReady(hosts: number): Promise<void> {
    await until(`${hosts} ready hosts`, async () => {
      const ready = (await this.client.hosts()).filter(({ state }) => state === "ready");
      return ready.length === hosts;
    });
  }

  /** Creates a machine that runs one of the fake driver's programs. */
  run(argv: string[], wishes: MachineWishes = {}): Promise<Machine> {
    const { name, image = "busybox", ...config } = wishes;
    return this.client.createMachine({
      ...(name === undefined ? {} : { name }),
      on_no_capacity: "fail",
      config: { ...config, image, init: { cmd: argv, ...config.init } },
    });
  }

  untilState(ref: string, ...states: Machine["state"][]): Promise<Machine> {
    return until(`${ref} to be ${states.join(" or ")}`, async () => {
      const machine = await this.client.machine(ref);
      return states.includes(machine.state) ? machine : null;
    });
  }

  /** Started, on another host than `from`. */
  untilMoved(ref: string, from: string): Promise<Machine> {
    return until(`${ref} to leave ${from}`, async () => {
      const machine = await this.client.machine(ref);
      const moved = machine.host_id !== null && machine.host_id !== from;
      return moved && machine.state === "started" ? machine : null;
    });
  }

  /** So many runs on all hosts together. */
  async untilRunning(runs: number): Promise<void> {
    await until(
      `${runs} runs`,
      () => this.agents.reduce((sum, { driver }) => sum + driver.running, 0) === runs,
    );
  }

  async logs(ref: string, follow = false): Promise<string> {
    let text = "";
    for await (const line of this.client.logs(ref, follow)) text += atob(line.data);
    return text;
  }

  /** A control plane that was killed and started again on the same addresses. */
  async restartPlane(between: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    const grpcPort = Number(this.#plane.grpcAddr.split(":").at(-1));
    const httpPort = Number(new URL(this.#plane.httpUrl).port);
    await this.#plane[Symbol.asyncDispose]();
    await between();
    this.#plane = await startPlane(this.#where, httpPort, grpcPort);
    this.#client = new Client({ url: this.#plane.httpUrl, token: TEST_TOKEN });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#checkLeaks();
    } finally {
      for (const agent of this.agents) await agent[Symbol.asyncDispose]();
      await this.#plane[Symbol.asyncDispose]();
      if (this.#where.dataDir !== null)
        rmSync(this.#where.dataDir, { recursive: true, force: true });
    }
  }

  async #checkLeaks(): Promise<void> {
    for (const agent of this.agents) agent.images.release();
    await this.untilReady(this.agents.length);
    for (const machine of await this.client.machines()) await this.client.remove(machine.id);
    await until("all machines to be gone", async () => (await this.client.machines()).length === 0);
    for (const agent of this.agents) {
      const left = readdirSync(join(agent.dir, "machines"));
      if (left.length > 0) throw new Error(`Machine directories are left: ${left.join(" ")}`);
      if (agent.driver.running > 0) throw new Error("Runs are left");
      if (agent.images.waiting > 0) throw new Error("Somebody still waits for an image");
    }
    for (const host of await this.client.hosts()) {
      const { cpus, memory_mb: memory, disk_mb: disk } = host.committed;
      if (cpus + memory + disk > 0) throw new Error(`Placements are left on ${host.hostname}`);
    }
    await until("all waiters to be gone", () => this.#plane.deps.changes.size === 0);
  }
}

function startPlane(where: Where, httpPort: number, grpcPort: number): Promise<ControlPlane> {
  return startControlPlane({
    env: {},
    log: silentLog(),
    outboxPollMs: 100,
    reconcileMs: 100,
    config: {
      httpPort,
      grpcPort,
      insecureLink: where.dataDir === null,
      ...(where.dataDir === null ? {} : { dataDir: where.dataDir }),
      databaseUrl: where.database,
      bootstrapToken: TEST_TOKEN,
    },
  });
}
