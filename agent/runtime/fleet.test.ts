import { afterEach, beforeEach, describe, expect, test, setDefaultTimeout } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import {
  MachineState,
  type MachineStatus,
  type Op,
  type Result,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { MachineId } from "../../proto/ids.ts";
import { FakeImages } from "../../tests/kit/fake-images.ts";
import { failure } from "../../tests/kit/failure.ts";
import {
  argv,
  destroyOp as destroy,
  startOp as start,
  stopOp as stop,
} from "../../tests/kit/ops.ts";
import { until } from "../../tests/kit/until.ts";
import { FakeDriver, type FakeDriverOptions } from "./fake-driver.ts";
import { Fleet } from "./fleet.ts";
import { Journal } from "./journal.ts";

setDefaultTimeout(30_000);

class Host {
  readonly dir = mkdtempSync(join(tmpdir(), "lev-fleet-"));
  readonly images = new FakeImages();
  driver: FakeDriver;
  journal: Journal;
  fleet: Fleet;
  statuses: MachineStatus[] = [];
  results: Result[] = [];

  constructor(options: Partial<FakeDriverOptions> = {}) {
    this.driver = new FakeDriver({ dir: join(this.dir, "machines"), ...options });
    this.journal = new Journal(join(this.dir, "journal.sqlite"));
    this.fleet = this.#makeFleet();
  }

  /** As after a SIGKILL: the next agent has the journal and the driver's runs, no more. */
  async restart(): Promise<void> {
    await this.fleet.close();
    this.journal[Symbol.dispose]();
    this.journal = new Journal(join(this.dir, "journal.sqlite"));
    this.fleet = this.#makeFleet();
    await this.fleet.recover();
  }

  async close(): Promise<void> {
    await this.fleet.close();
    this.journal[Symbol.dispose]();
    rmSync(this.dir, { recursive: true, force: true });
  }

  result(op: Op): Promise<Result> {
    return until(`result of ${op.opId}`, () => this.results.find((one) => one.opId === op.opId));
  }

  do(op: Op): Promise<Result> {
    this.fleet.receive(op);
    return this.result(op);
  }

  #makeFleet(): Fleet {
    const fleet = new Fleet({
      driver: this.driver,
      images: this.images,
      kernels: {
        resolve: () =>
          Promise.resolve({ kernelPath: "/dev/null", initrdPath: null, kernelArgs: "" }),
      },
      journal: this.journal,
      clock: systemClock,
      log: silentLog(),
      capacity: { cpus: 4, memoryMib: 1024, diskMib: 4096 },
    });
    fleet.listen((event) => {
      if (event.case === "status") this.statuses.push(event.value);
      if (event.case === "result") this.results.push(event.value);
    });
    return fleet;
  }
}

describe("a fleet", () => {
  let host: Host;
  let id: MachineId;
  beforeEach(() => {
    host = new Host();
    id = MachineId.create();
  });
  afterEach(() => host.close());

  test("starts, stops and destroys a machine, and says so at each change", async () => {
    expect((await host.do(start(id, 1))).errorReason).toBe("");
    expect(host.fleet.get(id).status).toMatchObject({
      state: MachineState.STARTED,
      generation: 1n,
      incarnation: 1n,
      bootUs: 1_000n,
    });
    expect((await host.do(stop(id, 2))).errorReason).toBe("");
    expect(host.fleet.get(id).status).toMatchObject({
      state: MachineState.STOPPED,
      exited: true,
      exitCode: 143,
    });
    const last = destroy(id, 3);
    expect((await host.do(last)).status?.state).toBe(MachineState.DESTROYED);
    expect(readdirSync(join(host.dir, "machines"))).toEqual([]);
    const sequences = host.statuses.map(({ sequence }) => sequence);
    expect(sequences).toEqual(sequences.toSorted((a, b) => (a < b ? -1 : 1)));
    expect(new Set(sequences).size).toBe(sequences.length);
    expect(host.fleet.inventory()).toHaveLength(1);
    host.fleet.acknowledge(last.opId);
    expect(host.fleet.inventory()).toEqual([]);
  });

  test("a machine that was destroyed cannot be started by a late op", async () => {
    const last = destroy(id, 3);
    await host.do(last);
    host.fleet.acknowledge(last.opId);
    expect((await host.do(start(id, 2))).errorReason).toBe("SUPERSEDED");
    await host.restart();
    expect((await host.do(start(id, 9))).errorReason).toBe("SUPERSEDED");
    expect(host.driver.begun).toEqual([]);
  });

  test("a process that ends by itself is told without an op", async () => {
    await host.do(start(id, 1, argv("exit", "7")));
    await until("it stopped", () => host.fleet.get(id).status.state === MachineState.STOPPED);
    expect(host.fleet.get(id).status).toMatchObject({ exited: true, exitCode: 7, reason: "" });
  });

  test("a guest that breaks makes the machine fail, with the reason", async () => {
    await host.do(start(id, 1, argv("break", "GUEST_FAULT")));
    await until("it failed", () => host.fleet.get(id).status.state === MachineState.FAILED);
    expect(host.fleet.get(id).status).toMatchObject({ reason: "GUEST_FAULT", message: "It broke" });
  });

  test("the same op twice is one run and the same result", async () => {
    const op = start(id, 1);
    const first = await host.do(op);
    expect(host.fleet.receive(op).result).toEqual(first);
    host.fleet.acknowledge(op.opId);
    expect(host.fleet.receive(op).result).toEqual(first);
    const again = start(id, 1);
    expect((await host.do(again)).errorReason).toBe("");
    expect(host.driver.begun).toHaveLength(1);
  });

  test("a run that ended is not begun again by a repeated start", async () => {
    await host.do(start(id, 1, argv("exit", "0")));
    await until("it stopped", () => host.fleet.get(id).status.state === MachineState.STOPPED);
    await host.do(start(id, 1, argv("exit", "0")));
    expect(host.driver.begun).toHaveLength(1);
  });

  test("an unknown image fails the start at once", async () => {
    const result = await host.do(start(id, 1, { image: "missing:1" }));
    expect(result).toMatchObject({ errorReason: "IMAGE_NOT_FOUND" });
    expect(result.status).toMatchObject({
      state: MachineState.FAILED,
      reason: "IMAGE_NOT_FOUND",
      message: 'Image "missing:1" was not found',
      generation: 1n,
    });
  });

  test("matrix: create during an image build, then cancel: stop takes effect while the start waits for its image; the build goes on", async () => {
    const op = start(id, 1, { image: "slow" });
    host.fleet.receive(op);
    await until("the image is awaited", () => host.images.waiting === 1);
    expect((await host.do(stop(id, 2))).status?.state).toBe(MachineState.STOPPED);
    expect((await host.result(op)).errorReason).toBe("SUPERSEDED");
    expect(host.driver.begun).toEqual([]);
    expect(host.images.closed).toBe(false);
  });

  test("matrix: delete while creating: it wins", async () => {
    const op = start(id, 1, { image: "slow" });
    host.fleet.receive(op);
    await until("the image is awaited", () => host.images.waiting === 1);
    expect((await host.do(destroy(id, 2))).status?.state).toBe(MachineState.DESTROYED);
    host.images.release();
    expect((await host.result(op)).errorReason).toBe("SUPERSEDED");
    expect(host.driver.begun).toEqual([]);
  });

  test("a stop with no patience cuts a patient one", async () => {
    await host.do(start(id, 1, argv("stubborn")));
    const patient = stop(id, 2, 300_000);
    host.fleet.receive(patient);
    await until("it stops", () => host.fleet.get(id).status.state === MachineState.STOPPING);
    expect((await host.do(stop(id, 3, 0))).errorReason).toBe("");
    expect((await host.result(patient)).errorReason).toBe("SUPERSEDED");
    expect(host.fleet.get(id).status).toMatchObject({
      state: MachineState.STOPPED,
      exitCode: 137,
      generation: 3n,
    });
  });

  test("a stop that comes before its start keeps the machine down", async () => {
    expect((await host.do(stop(id, 2))).status?.state).toBe(MachineState.STOPPED);
    expect((await host.do(start(id, 1))).errorReason).toBe("SUPERSEDED");
    expect(host.driver.begun).toEqual([]);
  });

  test("100 alternating starts and stops: one run at most, and the last word holds", async () => {
    let most = 0;
    const ops: Op[] = [];
    for (let generation = 1; generation <= 100; generation += 1)
      ops.push(generation % 2 === 1 ? start(id, generation) : stop(id, generation));
    for (const op of ops) {
      host.fleet.receive(op);
      if (ops.indexOf(op) % 7 === 0) await Promise.resolve();
      most = Math.max(most, host.driver.running);
    }
    for (const op of ops) await host.result(op);
    expect(most).toBeLessThanOrEqual(1);
    expect(host.driver.running).toBe(0);
    expect(host.fleet.get(id).status).toMatchObject({
      state: MachineState.STOPPED,
      generation: 100n,
    });
  });

  test("refuses more than the host has, and takes what is free again", async () => {
    const big = { memoryMib: 1_000n };
    await host.do(start(id, 1, big));
    const other = MachineId.create();
    const refused = await host.do(start(other, 1, big));
    expect(refused.errorReason).toBe("NO_CAPACITY");
    expect(refused.errorMessage).toBe(
      "This host has no room for 1000 MiB of memory: 24 of 1024 free",
    );
    await host.do(stop(id, 2));
    expect((await host.do(start(other, 2, big))).errorReason).toBe("");
  });

  test("a machine id that is none is refused before it becomes a path", async () => {
    const error = await failure(Promise.try(() => host.fleet.receive(destroy("../../etc", 1))));
    expect(error.reason).toBe("BAD_REQUEST");
  });
});

describe("an agent that comes back", () => {
  let host: Host;
  let id: MachineId;
  beforeEach(() => {
    host = new Host();
    id = MachineId.create();
  });
  afterEach(() => host.close());

  test("adopts what runs", async () => {
    await host.do(start(id, 1, argv("count")));
    await host.restart();
    expect(host.fleet.get(id).status.state).toBe(MachineState.STARTED);
    expect((await host.do(stop(id, 2))).errorReason).toBe("");
    expect(host.driver.begun).toHaveLength(1);
    expect(host.driver.running).toBe(0);
  });

  test("learns how a machine ended while it was away", async () => {
    await host.do(start(id, 1));
    await host.fleet.close();
    host.driver.run(id)?.finish({ exitCode: 3, exitSignal: 0 });
    await host.restart();
    expect(host.fleet.get(id).status).toMatchObject({ state: MachineState.STOPPED, exitCode: 3 });
  });

  test("matrix: host reboot: says that a machine is gone when nothing of it is left", async () => {
    await host.do(start(id, 1));
    await host.fleet.close();
    host.driver = new FakeDriver({ dir: join(host.dir, "machines") });
    await host.restart();
    expect(host.fleet.get(id).status).toMatchObject({
      state: MachineState.FAILED,
      reason: "VMM_FAULT",
    });
  });

  test("runs again what was journalled and not done", async () => {
    const op = start(id, 1, { image: "slow" });
    host.fleet.receive(op);
    await until("the image is awaited", () => host.images.waiting === 1);
    await host.restart();
    expect(host.results).toEqual([]);
    host.images.release();
    expect((await host.result(op)).errorReason).toBe("");
    expect(host.driver.running).toBe(1);
  });

  test("keeps a result until it is acknowledged", async () => {
    const op = start(id, 1);
    await host.do(op);
    await host.restart();
    expect(host.fleet.unackedResults()).toMatchObject([{ opId: op.opId }]);
    host.fleet.acknowledge(op.opId);
    expect(host.fleet.unackedResults()).toEqual([]);
  });

  test("removes a machine that nobody asked for", async () => {
    const stray = MachineId.create();
    await host.driver.start(
      {
        machineId: stray,
        incarnation: 1,
        cpus: 1,
        memoryMib: 64,
        diskMib: 16,
        kernelPath: "",
        initrdPath: null,
        kernelArgs: "",
        squashfsPath: "",
        process: { argv: ["idle"], env: [], cwd: "/", user: "", stopSignal: 15 },
        hostname: "stray",
      },
      new AbortController().signal,
    );
    await host.restart();
    expect(host.driver.running).toBe(0);
    expect(readdirSync(join(host.dir, "machines"))).toEqual([]);
  });

  test("keeps its host id", async () => {
    const before = host.journal.hostId();
    await host.restart();
    expect(host.journal.hostId()).toBe(before);
  });
});
