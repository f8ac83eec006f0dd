/**
 * The control plane's end of the link, by hand: a test sees every frame and decides
 * what is answered, when a stream is dropped and which epoch it speaks with.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import {
  type AgentFrame,
  AgentLink,
  type Hello,
  type HubFrame,
  HubFrameSchema,
  type LogChunk,
  type MachineStatus,
  type Result,
  type SessionEnd,
  type SessionFrame,
  SessionFrameSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { SessionId } from "../../proto/ids.ts";
import { Queue } from "../../cp/hub/queue.ts";
import { until } from "./until.ts";

type Down = NonNullable<MessageInitShape<typeof HubFrameSchema>["frame"]>;

/** One control stream as the hub sees it. */
export class HubStream {
  readonly received: AgentFrame["frame"][] = [];
  readonly epoch: bigint;
  #queue: HubFrame[] = [];
  #wake: (() => void) | null = null;
  over = false;

  constructor(epoch: bigint) {
    this.epoch = epoch;
  }

  get hello(): Hello | null {
    const first = this.received[0];
    return first?.case === "hello" ? first.value : null;
  }

  get results(): Result[] {
    return this.received.flatMap((frame) => (frame.case === "result" ? [frame.value] : []));
  }

  get statuses(): MachineStatus[] {
    return this.received.flatMap((frame) => (frame.case === "status" ? [frame.value] : []));
  }

  has(kind: AgentFrame["frame"]["case"]): boolean {
    return this.received.some((frame) => frame.case === kind);
  }

  send(frame: Down, epoch: bigint = this.epoch): void {
    this.push(create(HubFrameSchema, { epoch, frame }));
  }

  push(frame: HubFrame): void {
    this.#queue.push(frame);
    this.#wake?.();
  }

  /** Breaks the stream, whatever was still on its way. */
  drop(): void {
    this.over = true;
    this.#wake?.();
  }

  async *down(): AsyncGenerator<HubFrame> {
    while (!this.over) {
      const frame = this.#queue.shift();
      if (frame !== undefined) yield frame;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

/** What came up on one Attach. */
export type HubLogs = {
  chunks: LogChunk[];
  end: SessionEnd | null;
  grant: (bytes: bigint) => void;
};

export class FakeHub implements AsyncDisposable {
  readonly streams: HubStream[] = [];
  readonly sessions = new Map<string, HubLogs>();
  /** Called for each frame of the newest stream, after it was recorded. */
  onFrame: (stream: HubStream, frame: AgentFrame["frame"]) => void = () => undefined;
  /** false: a new stream gets no Welcome. */
  welcomes = true;
  nextEpoch = 1n;
  readonly #server: Http2Server;
  readonly #connections = new Set<ServerHttp2Session>();

  private constructor() {
    const adapter = connectNodeAdapter({
      acceptCompression: [],
      routes: (router) =>
        router.service(AgentLink, {
          connect: (frames, context) => this.#connect(frames, context),
          attach: (frames) => this.#attach(frames),
        }),
    });
    this.#server = createServer(adapter);
    this.#server.on("session", (session) => {
      this.#connections.add(session);
      session.on("close", () => this.#connections.delete(session));
    });
    this.#server.on("sessionError", () => undefined);
  }

  static async start(): Promise<FakeHub> {
    const hub = new FakeHub();
    await new Promise<void>((resolve) => hub.#server.listen(0, "127.0.0.1", resolve));
    return hub;
  }

  get addr(): string {
    const address = this.#server.address();
    if (address === null || typeof address === "string") throw new Error("The hub is closed");
    return `127.0.0.1:${address.port}`;
  }

  /** The newest stream that is still open, once it has said Hello. */
  stream(): Promise<HubStream> {
    return until("an agent's Hello", () => {
      const newest = this.streams.at(-1);
      return newest !== undefined && !newest.over && newest.hello !== null ? newest : null;
    });
  }

  /** Opens a log session and waits for its end. */
  async logs(
    machineId: string,
    options: { after?: bigint; follow?: boolean } = {},
  ): Promise<HubLogs> {
    const sessionId = this.openLogs(await this.stream(), machineId, options);
    return until("the session's end", () => {
      const session = this.sessions.get(sessionId);
      return session?.end === null ? null : session;
    });
  }

  openLogs(
    stream: HubStream,
    machineId: string,
    options: { after?: bigint; follow?: boolean; credit?: bigint } = {},
  ): string {
    const sessionId = SessionId.create();
    const logs = { afterSequence: options.after ?? 0n, follow: options.follow ?? false };
    stream.send({
      case: "openSession",
      value: {
        sessionId,
        machineId,
        creditBytes: options.credit ?? 0n,
        kind: { case: "logs", value: logs },
      },
    });
    return sessionId;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const stream of this.streams) stream.drop();
    for (const connection of this.#connections) connection.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async *#connect(
    frames: AsyncIterable<AgentFrame>,
    context: HandlerContext,
  ): AsyncGenerator<HubFrame> {
    const stream = new HubStream(this.nextEpoch);
    this.nextEpoch += 1n;
    this.streams.push(stream);
    context.signal.addEventListener("abort", () => stream.drop(), { once: true });
    void this.#read(stream, frames).catch(() => stream.drop());
    if (this.welcomes)
      stream.send({
        case: "welcome",
        value: { hostId: "", heartbeatIntervalMs: 1_000, replicaId: "rep_test" },
      });
    yield* stream.down();
  }

  async #read(stream: HubStream, frames: AsyncIterable<AgentFrame>): Promise<void> {
    for await (const { frame } of frames) {
      if (stream.over) return;
      stream.received.push(frame);
      this.onFrame(stream, frame);
    }
    stream.drop();
  }

  async *#attach(frames: AsyncIterable<SessionFrame>): AsyncGenerator<SessionFrame> {
    const grants = new Queue<SessionFrame>(100);
    void this.#readSession(frames, grants).catch(() => grants.close());
    yield* grants;
  }

  async #readSession(
    frames: AsyncIterable<SessionFrame>,
    grants: Queue<SessionFrame>,
  ): Promise<void> {
    let logs: HubLogs | null = null;
    for await (const { frame } of frames) {
      if (frame.case === "open") {
        const grant = (bytes: bigint): void =>
          void grants.push(
            create(SessionFrameSchema, { frame: { case: "credit", value: { bytes } } }),
          );
        logs = { chunks: [], end: null, grant };
        this.sessions.set(frame.value.sessionId, logs);
      } else if (frame.case === "log") logs?.chunks.push(frame.value);
      else if (frame.case === "end" && logs !== null) logs.end = frame.value;
    }
    grants.close();
  }
}
