/**
 * A scripted agent: speaks the link and does only what the test tells it, so that
 * acks and results can be lost, repeated and sent late. No journal, no machines.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { Queue } from "../../../cp/hub/queue.ts";
import {
  AgentFrameSchema,
  AgentLink,
  HelloSchema,
  MachineState,
  MachineStatusSchema,
  SessionFrameSchema,
  type AgentFrame,
  type HubFrame,
  type Op,
  type SessionFrame,
} from "../../../proto/gen/leveret/v1/agent_pb.js";
import { HostId } from "../../../proto/ids.ts";
import { until } from "../../kit/until.ts";

/** Fields as a plain object, not a ready message: two of them can be merged. */
type Fields<T> = Exclude<T, { $typeName: string }>;
type Hello = Fields<MessageInitShape<typeof HelloSchema>>;
export type Status = Fields<MessageInitShape<typeof MachineStatusSchema>>;
type Session = Extract<HubFrame["frame"], { case: "openSession" }>["value"];

/** PEM, of a hub with certificates; null = a plain link. */
type Identity = { key: string; cert: string } | null;

function client(address: string, identity: Identity) {
  const baseUrl = `${identity === null ? "http" : "https"}://${address}`;
  const tls = identity === null ? {} : { ...identity, rejectUnauthorized: false };
  const manager = new Http2SessionManager(baseUrl, {}, tls);
  const transport = createGrpcTransport({
    baseUrl,
    sessionManager: manager,
    acceptCompression: [],
  });
  return { manager, rpc: createClient(AgentLink, transport) };
}

export class FakeAgent implements AsyncDisposable {
  readonly hostId: string;
  /** Frames that came down, oldest first. */
  readonly frames: HubFrame[] = [];
  /** Set when the stream has ended, however. */
  ended = false;
  /** Bytes of credit that came on Attach. */
  granted = 0;
  readonly #address: string;
  readonly #identity: Identity;
  readonly #up = new Queue<AgentFrame>(1_000);
  readonly #abort = new AbortController();
  readonly #link: ReturnType<typeof client>;
  readonly #done: Promise<void>;
  readonly #sequences = new Map<string, bigint>();

  private constructor(address: string, hello: Hello, identity: Identity) {
    this.#address = address;
    this.#identity = identity;
    this.hostId = hello.hostId ?? "";
    this.#link = client(address, identity);
    this.send({ case: "hello", value: create(HelloSchema, hello) });
    this.#done = this.#run();
  }

  /** Connects and waits for Welcome. */
  static async connect(
    address: string,
    hello: Hello = {},
    identity: Identity = null,
  ): Promise<FakeAgent> {
    const agent = FakeAgent.dial(address, hello, identity);
    await until("Welcome", () => agent.ended || agent.frames[0]?.frame.case === "welcome");
    return agent;
  }

  /** Sends Hello and returns at once. */
  static dial(address: string, hello: Hello = {}, identity: Identity = null): FakeAgent {
    const usual = {
      hostId: HostId.create(),
      hostname: "fake",
      version: "0",
      bootId: "boot-1",
      arch: "amd64",
      kvm: "direct",
      capacity: { cpus: 4, memoryMib: 4096n, diskMib: 20_000n },
    };
    return new FakeAgent(address, { ...usual, ...hello }, identity);
  }

  get epoch(): bigint {
    return this.frames[0]?.epoch ?? 0n;
  }

  async #run(): Promise<void> {
    try {
      const signal = this.#abort.signal;
      for await (const frame of this.#link.rpc.connect(this.#up, { signal }))
        this.frames.push(frame);
    } catch {
      // A test that breaks the stream finds `ended`.
    } finally {
      this.ended = true;
      this.#link.manager.abort();
    }
  }

  send(frame: AgentFrame["frame"]): void {
    this.push(create(AgentFrameSchema, { frame }));
  }

  push(frame: AgentFrame): void {
    this.#up.push(frame);
  }

  ops(): Op[] {
    return this.frames.flatMap(({ frame }) => (frame.case === "op" ? [frame.value] : []));
  }

  acked(): string[] {
    return this.frames.flatMap(({ frame }) =>
      frame.case === "resultAck" ? [frame.value.opId] : [],
    );
  }

  /** The n-th op that came down this stream, from 1. */
  op(n: number): Promise<Op> {
    return until(`op ${n}`, () => this.ops()[n - 1]);
  }

  sessions(): Session[] {
    return this.frames.flatMap(({ frame }) => (frame.case === "openSession" ? [frame.value] : []));
  }

  ack(op: Op): void {
    this.send({ case: "ack", value: { $typeName: "leveret.v1.Ack", opId: op.opId } });
  }

  /** A status with the machine's next sequence unless one is given. */
  makeStatus(machineId: string, status: Status) {
    const sequence = status.sequence ?? (this.#sequences.get(machineId) ?? 0n) + 1n;
    this.#sequences.set(machineId, sequence);
    return create(MachineStatusSchema, { machineId, ...status, sequence });
  }

  status(machineId: string, status: Status): void {
    this.send({ case: "status", value: this.makeStatus(machineId, status) });
  }

  result(op: Op, outcome: { error?: [string, string]; status?: Status } = {}): void {
    const [errorReason = "", errorMessage = ""] = outcome.error ?? [];
    const status =
      outcome.status === undefined ? undefined : this.makeStatus(op.machineId, outcome.status);
    this.send({
      case: "result",
      value: {
        $typeName: "leveret.v1.Result",
        opId: op.opId,
        machineId: op.machineId,
        errorReason,
        errorMessage,
        ...(status === undefined ? {} : { status }),
      },
    });
  }

  /** Ack, started, Result: what a healthy start looks like. */
  runStart(op: Op): void {
    const { generation } = op;
    const incarnation = op.command.case === "start" ? op.command.value.incarnation : 0n;
    this.ack(op);
    this.status(op.machineId, { state: MachineState.STARTING, generation, incarnation });
    this.result(op, { status: { state: MachineState.STARTED, generation, incarnation } });
  }

  /** Answers an OpenSession on a connection of its own, as agents do. */
  async attach(
    sessionId: string,
    frames: SessionFrame["frame"][],
    options: { breakOff?: boolean; epoch?: bigint; address?: string; hostId?: string } = {},
  ): Promise<void> {
    const { manager, rpc } = client(options.address ?? this.#address, this.#identity);
    const abort = new AbortController();
    const { epoch = this.epoch, hostId = this.hostId } = options;
    const up = new Queue<SessionFrame>(1_000);
    const push = (frame: SessionFrame["frame"]): unknown =>
      up.push(create(SessionFrameSchema, { frame }));
    push({
      case: "open",
      value: { $typeName: "leveret.v1.SessionOpen", sessionId, hostId, epoch },
    });
    for (const frame of frames) push(frame);
    if (options.breakOff === true) up.close();
    try {
      for await (const { frame } of rpc.attach(up, { signal: abort.signal })) {
        if (frame.case === "credit") this.granted += Number(frame.value.bytes);
        if (frame.case === "end") break;
      }
    } finally {
      up.close();
      abort.abort();
      manager.abort();
    }
  }

  /** Ends the stream from this side, without a word. */
  async drop(): Promise<void> {
    this.#abort.abort();
    this.#up.close();
    await this.#done;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.drop();
  }
}
