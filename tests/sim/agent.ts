/** The real agent above the driver (link, journal, queues) as a process that can die anywhere. */
import { tmpdir } from "node:os";
import type { AgentContext } from "../../agent/context.ts";
import { LvError } from "../../proto/errors.ts";
import type { BuiltImage, EnsureOptions, Images, NamedImage } from "../../agent/images/types.ts";
import { runLink } from "../../agent/link/client.ts";
import { Fleet } from "../../agent/runtime/fleet.ts";
import { Journal } from "../../agent/runtime/journal.ts";
import { abortReason } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import type { MachineStatus, Op, Result } from "../../proto/gen/leveret/v1/agent_pb.js";
import { FAKE_KERNELS } from "../kit/test-agent.ts";
import { IMAGE_CONFIG } from "../kit/fake-images.ts";
import { type RunLedger, SimDriver, SimHost } from "./driver.ts";
import type { Network } from "./network.ts";
import type { Random } from "./random.ts";
import { Death, type Scheduler, SimProcess } from "./time.ts";

/** Made once: it is not free. */
const LOG = silentLog();

const CAPACITY = { cpus: 4, memoryMib: 1_024, diskMib: 4_096 };

/** Each write is a point before and after which the process may die. */
class SimJournal extends Journal {
  /** Set while a process has it open. */
  process: SimProcess | null = null;
  writesLeft = Number.POSITIVE_INFINITY;

  #around<T>(write: () => T): T {
    this.#mayDie();
    const value = write();
    this.#mayDie();
    return value;
  }

  #mayDie(): void {
    const { process } = this;
    if (process?.dead === false && (this.writesLeft -= 1) <= 0) process.die();
    if (process === null || process.dead) throw new Death("the agent is dead");
  }

  override addOp(op: Op): void {
    this.#around(() => super.addOp(op));
  }
  override finishOp(result: Result): void {
    this.#around(() => super.finishOp(result));
  }
  override acknowledge(opId: string): void {
    this.#around(() => super.acknowledge(opId));
  }
  override saveMachine(...args: Parameters<Journal["saveMachine"]>): void {
    this.#around(() => super.saveMachine(...args));
  }
  override forgetMachine(id: string): void {
    this.#around(() => super.forgetMachine(id));
  }
}

/** What one process holds of the journal; a later process has another. */
function viewOf(journal: SimJournal, process: SimProcess): Journal {
  return new Proxy(journal, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      return (...args: unknown[]): unknown => {
        if (process.dead) throw new Death("the agent is dead");
        return (value as (...all: unknown[]) => unknown).apply(target, args);
      };
    },
  });
}

class SimImages implements Images {
  readonly #scheduler: Scheduler;
  readonly #random: Random;
  readonly #process: SimProcess;

  constructor(scheduler: Scheduler, random: Random, process: SimProcess) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.#process = process;
  }

  async ensure(_reference: string, options: EnsureOptions = {}): Promise<BuiltImage> {
    const { signal } = options;
    const ms = this.#random.chance(0.2) ? this.#random.between(100, 3_000) : 0;
    if (ms > 0)
      await new Promise<void>((resolve, reject) => {
        this.#scheduler.after(ms, this.#process, resolve);
        signal?.addEventListener("abort", () => reject(abortReason(signal)), { once: true });
      });
    return { digest: "sha256:0", squashfsPath: "/dev/null", sizeBytes: 1, config: IMAGE_CONFIG };
  }

  readonly changes = 0;

  list(): Promise<NamedImage[]> {
    return Promise.resolve([]);
  }

  pin = unknown;
  remove = unknown;
  prune = unknown;
  load = unknown;

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Nothing in the simulator asks for it. */
function unknown(): never {
  throw new LvError("UNIMPLEMENTED", "The simulator has no images to manage");
}

export type AgentWorld = {
  scheduler: Scheduler;
  random: Random;
  network: Network;
  ledger: RunLedger;
};

export class SimAgent implements Disposable {
  readonly host: SimHost;
  readonly skewMs: number;
  readonly #world: AgentWorld;
  readonly #journal = new SimJournal(":memory:");
  #process: SimProcess;
  #fleet: Fleet | null = null;
  #leave = new AbortController();

  constructor(name: string, world: AgentWorld, skewMs: number) {
    this.#world = world;
    this.skewMs = skewMs;
    this.host = new SimHost(name);
    this.#process = new SimProcess(name);
  }

  get process(): SimProcess {
    return this.#process;
  }

  get hostId(): string {
    return this.#journal.getMeta("host_id") ?? "";
  }

  inventory(): MachineStatus[] {
    return this.#fleet?.inventory() ?? [];
  }

  async start(): Promise<void> {
    const { scheduler, random, network, ledger } = this.#world;
    const process = new SimProcess(this.host.name);
    this.#process = process;
    this.#journal.process = process;
    this.#journal.writesLeft = Number.POSITIVE_INFINITY;
    const leave = new AbortController();
    this.#leave = leave;
    const clock = scheduler.clockOf(process, this.skewMs);
    const log = LOG;
    const fleet = new Fleet({
      journal: viewOf(this.#journal, process),
      images: new SimImages(scheduler, random, process),
      driver: new SimDriver(this.host, process, { scheduler, random, ledger }),
      kernels: FAKE_KERNELS,
      clock,
      log,
      capacity: CAPACITY,
    });
    this.#fleet = fleet;
    process.onDeath(() => {
      // Whatever of it still runs finds a closed journal; its sockets are closed.
      void fleet.close().catch(() => undefined);
      leave.abort(new Error("the agent is dead"));
      network.closeAll(process);
    });
    try {
      await fleet.recover();
      const config = { controlPlaneAddr: "sim:1", dir: tmpdir(), hostName: this.host.name };
      const context = {
        config: {
          ...config,
          capacity: CAPACITY,
          labels: {},
          kvmKind: "direct",
          insecureLink: true,
        },
        clock,
        log,
        hostId: this.#journal.hostId(),
        version: "sim",
        fleet,
        dial: network.dialFor(process),
      } as unknown as AgentContext;
      void runLink(context, leave.signal).catch(() => undefined);
    } catch (error) {
      if (!process.dead) throw error;
    }
  }

  /** SIGKILL now, or at a journal write to come. */
  kill(afterWrites = 0): void {
    if (afterWrites === 0) this.#process.die();
    else this.#journal.writesLeft = afterWrites;
  }

  [Symbol.dispose](): void {
    this.#process.die();
    this.#leave.abort();
    this.#journal[Symbol.dispose]();
  }
}
