/**
 * Many agents in one process, for tests/bench/hub.ts: `bun hub-agents.ts ADDR COUNT`.
 * Each has a connection of its own, says Hello, beats, comes back when it is dropped,
 * and answers ops as a host whose machines need no time. Prints "open N", the streams
 * that are open, when that has changed, and "done OP MS" for each Result that it may
 * forget, with the time at which it was told; both every PRINT_MS at most.
 */
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { Backoff } from "../../lib/backoff.ts";
import { LIMITS } from "../../lib/limits.ts";
import {
  AgentFrameSchema,
  HelloSchema,
  HubFrameSchema,
  MachineState,
  type Op,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId } from "../../proto/ids.ts";
import { dataFrame, GrpcStream } from "./grpc-wire.ts";

const PRINT_MS = 50;
/** Beats are spread over the interval in so many parts, as chance would spread them. */
const BEAT_PARTS = 100;
/** Dials under way at once; the rest wait their turn, as the network would make them. */
const DIALS = 64;

const [address = "", count = "0"] = process.argv.slice(2);
const [hostname = "", port = ""] = address.split(":");
const AT = { hostname, port: Number(port), path: "/leveret.v1.AgentLink/Connect" };
let open = 0;
let printed = -1;
let told: string[] = [];
let dialling = 0;
const turns: (() => void)[] = [];

async function turn(): Promise<void> {
  if (dialling >= DIALS) await new Promise<void>((resolve) => turns.push(resolve));
  dialling += 1;
}

function next(): void {
  dialling -= 1;
  turns.shift()?.();
}

function encode(frame: NonNullable<MessageInitShape<typeof AgentFrameSchema>["frame"]>): Buffer {
  return dataFrame(toBinary(AgentFrameSchema, create(AgentFrameSchema, { frame })));
}

const BEAT = encode({
  case: "heartbeat",
  value: { sequence: 1n, memoryFreeMib: 1n, diskFreeMib: 1n, load1: 0 },
});

class Agent {
  readonly #hostId = HostId.create();
  readonly #sequences = new Map<string, bigint>();
  readonly #backoff = new Backoff({ baseMs: LIMITS.reconnectBaseMs, capMs: LIMITS.reconnectCapMs });
  #stream: GrpcStream | undefined;
  #welcomed = false;
  #hasTurn = false;

  async dial(): Promise<void> {
    await turn();
    this.#hasTurn = true;
    try {
      this.#stream = await GrpcStream.open(AT, {
        message: (bytes) => this.#heard(bytes),
        closed: () => this.#dropped(),
      });
      this.#stream.send(encode({ case: "hello", value: this.#hello() }));
    } catch {
      this.#dropped();
    }
  }

  beat(): void {
    if (this.#welcomed) this.#stream?.send(BEAT);
  }

  #dialled(): void {
    if (this.#hasTurn) next();
    this.#hasTurn = false;
  }

  #dropped(): void {
    this.#dialled();
    if (this.#welcomed) open -= 1;
    this.#welcomed = false;
    this.#stream = undefined;
    setTimeout(() => void this.dial(), this.#backoff.next());
  }

  #heard(bytes: Uint8Array): void {
    const { frame } = fromBinary(HubFrameSchema, bytes);
    if (frame.case === "welcome") {
      this.#welcomed = true;
      this.#backoff.reset();
      open += 1;
      this.#dialled();
    }
    if (frame.case === "op") this.#answer(frame.value);
    if (frame.case === "resultAck") told.push(`done ${frame.value.opId} ${Date.now()}\n`);
    if (frame.case === "goodbye") this.#stream?.close();
  }

  #hello() {
    return create(HelloSchema, {
      hostId: this.#hostId,
      hostname: this.#hostId,
      version: "bench",
      bootId: "boot",
      arch: "amd64",
      kvm: "direct",
      capacity: { cpus: 64, memoryMib: 65_536n, diskMib: 65_536n },
    });
  }

  #answer({ opId, machineId, generation, command }: Op): void {
    this.#stream?.send(encode({ case: "ack", value: { opId } }));
    const sequence = (this.#sequences.get(machineId) ?? 0n) + 1n;
    this.#sequences.set(machineId, sequence);
    const started = command.case === "start";
    const ended = command.case === "destroy" ? MachineState.DESTROYED : MachineState.STOPPED;
    const status = {
      machineId,
      generation,
      sequence,
      state: started ? MachineState.STARTED : ended,
      incarnation: started ? command.value.incarnation : 1n,
    };
    this.#stream?.send(encode({ case: "result", value: { opId, machineId, status } }));
  }
}

const agents = Array.from({ length: Number(count) }, () => new Agent());
let part = 0;
setInterval(() => {
  part = (part + 1) % BEAT_PARTS;
  for (let at = part; at < agents.length; at += BEAT_PARTS) agents[at]?.beat();
}, LIMITS.heartbeatIntervalMs / BEAT_PARTS);
setInterval(() => {
  if (open !== printed) told.push(`open ${open}\n`);
  printed = open;
  if (told.length > 0) process.stdout.write(told.join(""));
  told = [];
}, PRINT_MS);
for (const agent of agents) void agent.dial();
