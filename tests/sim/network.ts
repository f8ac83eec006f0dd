/**
 * The link without a network. Streams keep what gRPC promises while they live: what
 * arrives, arrives in order, except where a test's fault says otherwise. Frames are
 * delayed, repeated and swapped; a frame that is lost dooms its stream: nothing
 * follows it, and each end notices in its own time, as with a half-open connection.
 * One that vanishes is missing from a stream that lives on.
 *
 *   agent's connect() ─up→ pipe ─→ hub's handler
 *                     ←down─ pipe ←─
 */
import { Code, ConnectError, createContextValues, type HandlerContext } from "@connectrpc/connect";
import { callerKey } from "../../cp/hub/peer.ts";
import type { Dialled } from "../../agent/link/transport.ts";
import type { AgentFrame, HubFrame } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Random } from "./random.ts";
import type { Scheduler, SimProcess } from "./time.ts";

export type Hub = {
  process: SimProcess;
  connect(frames: AsyncIterable<AgentFrame>, context: HandlerContext): AsyncIterable<HubFrame>;
};

export type Faults = {
  duplicate: number;
  swap: number;
  lose: number;
  vanish: number;
  slow: number;
};

/** Changes a frame on its way down, and says whether: how a bug is planted without touching the product. */
export type FrameMutation = (frame: HubFrame) => boolean;

const NOTICE_MIN_MS = 1_000;
const NOTICE_MAX_MS = 15_000;

const broken = (): ConnectError => new ConnectError("the connection broke", Code.Unavailable);

class Pipe<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  #failure: Error | null = null;
  #ended = false;
  #wake: (() => void) | null = null;

  push(item: T): void {
    this.#items.push(item);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  fail(error: Error): void {
    this.#failure ??= error;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      if (this.#failure !== null) throw this.#failure;
      const item = this.#items.shift();
      if (item !== undefined) yield item;
      else if (this.#ended) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

class Stream {
  readonly agent: SimProcess;
  readonly hub: SimProcess;
  readonly up = new Pipe<AgentFrame>();
  readonly down = new Pipe<HubFrame>();
  readonly hubSide = new AbortController();
  doomed = false;
  readonly #network: Network;
  #arrival = { up: 0, down: 0 };
  #frames = { up: 0, down: 0 };

  constructor(network: Network, agent: SimProcess, hub: SimProcess) {
    this.#network = network;
    this.agent = agent;
    this.hub = hub;
  }

  /** Carries something to the other end, in order, late or never. */
  carry(direction: "up" | "down", again: boolean, deliver: () => void): void {
    const { scheduler, random, faults } = this.#network;
    const first = (this.#frames[direction] += 1) === 1;
    if (this.doomed) return;
    if (this.#network.isCut(this.agent) || (!first && random.chance(faults.lose)))
      return this.doom();
    if (again && !first && random.chance(faults.vanish)) return;
    const target = direction === "up" ? this.hub : this.agent;
    const ms = random.chance(faults.slow) ? random.between(20, 2_000) : random.between(0, 3);
    const at = Math.max(this.#arrival[direction], scheduler.now + ms);
    const arrive = (extraMs: number): unknown =>
      scheduler.after(at + extraMs - scheduler.now, target, () => {
        if (!this.doomed) deliver();
      });
    const swapped = again && !first && random.chance(faults.swap);
    if (!swapped) this.#arrival[direction] = at;
    arrive(swapped ? random.between(1, 20) : 0);
    if (again && !first && random.chance(faults.duplicate)) arrive(random.between(0, 50));
  }

  /** Nothing arrives any more; each end finds out by its own pings. */
  doom(): void {
    if (this.doomed) return;
    this.doomed = true;
    const { scheduler, random } = this.#network;
    const notice = (): number => random.between(NOTICE_MIN_MS, NOTICE_MAX_MS);
    scheduler.after(notice(), this.agent, () => this.breakAgentSide());
    scheduler.after(notice(), this.hub, () => this.breakHubSide());
  }

  breakAgentSide(): void {
    this.doomed = true;
    this.down.fail(broken());
  }

  breakHubSide(): void {
    this.doomed = true;
    this.up.fail(broken());
    this.hubSide.abort(broken());
  }
}

export class Network {
  readonly scheduler: Scheduler;
  readonly random: Random;
  readonly faults: Faults;
  readonly mutate: FrameMutation;
  /** The control planes that listen. */
  readonly hubs: Hub[] = [];
  readonly #streams = new Set<Stream>();
  readonly #cutUntil = new Map<string, number>();

  constructor(
    scheduler: Scheduler,
    random: Random,
    faults: Faults,
    mutate: FrameMutation = () => false,
  ) {
    this.scheduler = scheduler;
    this.random = random;
    this.faults = faults;
    this.mutate = mutate;
  }

  isCut(agent: SimProcess): boolean {
    return (this.#cutUntil.get(agent.name) ?? 0) > this.scheduler.now;
  }

  /** A partition of the agent's host. */
  cut(agent: SimProcess, ms: number): void {
    this.#cutUntil.set(agent.name, this.scheduler.now + ms);
    for (const stream of this.#streams) if (stream.agent.name === agent.name) stream.doom();
  }

  /** No more faults from now on. */
  heal(): void {
    Object.assign(this.faults, { duplicate: 0, swap: 0, lose: 0, vanish: 0, slow: 0 });
    this.#cutUntil.clear();
  }

  /** The kernel closes a dead process's sockets: the other end knows at once. */
  closeAll(process: SimProcess): void {
    for (const stream of this.#streams) {
      if (stream.agent === process)
        this.scheduler.after(1, stream.hub, () => stream.breakHubSide());
      if (stream.hub === process)
        this.scheduler.after(1, stream.agent, () => stream.breakAgentSide());
    }
  }

  /** A frozen peer answers no pings. */
  freeze(hub: SimProcess, ms: number): void {
    if (ms < NOTICE_MAX_MS) return;
    for (const stream of this.#streams)
      if (stream.hub === hub)
        this.scheduler.after(this.random.between(5_000, NOTICE_MAX_MS), stream.agent, () =>
          stream.doom(),
        );
  }

  dialFor(agent: SimProcess): () => Dialled {
    return () => {
      const end = new AbortController();
      const client = {
        connect: (frames: AsyncIterable<AgentFrame>, options: { signal: AbortSignal }) =>
          this.#connect(agent, frames, AbortSignal.any([options.signal, end.signal])),
        attach: () => {
          throw broken();
        },
      };
      return {
        client: client as unknown as Dialled["client"],
        [Symbol.dispose]: () => end.abort(broken()),
      };
    };
  }

  async *#connect(
    agent: SimProcess,
    frames: AsyncIterable<AgentFrame>,
    signal: AbortSignal,
  ): AsyncGenerator<HubFrame> {
    await this.scheduler.sleep(this.random.between(1, 5), agent);
    const open = this.hubs.filter((hub) => !hub.process.dead);
    if (this.isCut(agent) || open.length === 0) {
      await this.scheduler.sleep(this.random.between(1, 1_000), agent);
      throw broken();
    }
    const hub = this.random.pick(open);
    const stream = new Stream(this, agent, hub.process);
    this.#streams.add(stream);
    // A frozen listener's kernel accepts; nobody ever answers.
    if (hub.process.frozenUntil > this.scheduler.now)
      this.scheduler.after(this.random.between(5_000, NOTICE_MAX_MS), agent, () => {
        if (hub.process.frozenUntil > this.scheduler.now) stream.doom();
      });
    const onAbort = (): void => {
      this.#streams.delete(stream);
      if (!stream.doomed && !this.isCut(agent))
        this.scheduler.after(1, hub.process, () => stream.breakHubSide());
      stream.breakAgentSide();
    };
    signal.addEventListener("abort", onAbort, { once: true });
    void this.#pumpUp(stream, frames, agent);
    this.scheduler.after(1, hub.process, () => void this.#serve(stream, hub));
    try {
      yield* stream.down;
    } finally {
      onAbort();
    }
  }

  async #pumpUp(stream: Stream, frames: AsyncIterable<AgentFrame>, agent: SimProcess) {
    for await (const frame of frames) {
      if (agent.dead) return;
      stream.carry("up", true, () => stream.up.push(frame));
    }
    stream.carry("up", false, () => stream.up.end());
  }

  async #serve(stream: Stream, hub: Hub): Promise<void> {
    const context = {
      signal: stream.hubSide.signal,
      values: createContextValues().set(callerKey, null),
      requestHeader: new Headers(),
    } as unknown as HandlerContext;
    try {
      for await (const frame of hub.connect(stream.up, context)) {
        if (hub.process.dead) return;
        this.mutate(frame);
        const repeatable = frame.frame.case !== "welcome" && frame.frame.case !== "goodbye";
        stream.carry("down", repeatable, () => stream.down.push(frame));
      }
      stream.carry("down", false, () => stream.down.end());
    } catch {
      stream.carry("down", false, () => stream.down.fail(broken()));
    } finally {
      // The handler has returned: whoever read on its behalf is told as well.
      if (!hub.process.dead) stream.hubSide.abort(broken());
    }
  }
}
