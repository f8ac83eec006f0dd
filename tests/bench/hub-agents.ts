/**
 * Many agents in one process, for tests/bench/hub.ts: `bun hub-agents.ts ADDR COUNT`.
 * Each has a connection of its own, says Hello, beats, comes back when it is dropped,
 * and answers ops as a host whose machines need no time. Prints the number of streams
 * that are open each time it changes, at most every PRINT_MS.
 */
import { create } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { Queue } from "../../cp/hub/queue.ts";
import { Backoff } from "../../lib/backoff.ts";
import { LIMITS } from "../../lib/limits.ts";
import {
  AgentFrameSchema,
  AgentLink,
  HelloSchema,
  MachineState,
  MachineStatusSchema,
  type AgentFrame,
  type Op,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { HostId } from "../../proto/ids.ts";

const PRINT_MS = 50;
/** Dials under way at once; the rest wait their turn, as the network would make them. */
const DIALS = 64;

const [address = "", count = "0"] = process.argv.slice(2);
let open = 0;
let printed = -1;
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

class Agent {
  readonly #hostId = HostId.create();
  readonly #sequences = new Map<string, bigint>();

  async live(): Promise<never> {
    const backoff = new Backoff({ baseMs: LIMITS.reconnectBaseMs, capMs: LIMITS.reconnectCapMs });
    for (;;) {
      if (await this.#stream()) backoff.reset();
      await Bun.sleep(backoff.next());
    }
  }

  /** One stream to its end; true when it was welcomed. */
  async #stream(): Promise<boolean> {
    await turn();
    let waiting = true;
    const dialled = (): void => {
      if (waiting) next();
      waiting = false;
    };
    const manager = new Http2SessionManager(`http://${address}`);
    const rpc = createClient(
      AgentLink,
      createGrpcTransport({
        baseUrl: `http://${address}`,
        sessionManager: manager,
        acceptCompression: [],
      }),
    );
    const up = new Queue<AgentFrame>(LIMITS.hubQueueFrames);
    const send = (frame: AgentFrame["frame"]): unknown =>
      up.push(create(AgentFrameSchema, { frame }));
    send({ case: "hello", value: this.#hello() });
    const abort = new AbortController();
    let beat: ReturnType<typeof setInterval> | undefined;
    let welcomed = false;
    try {
      for await (const { frame } of rpc.connect(up, { signal: abort.signal })) {
        if (frame.case === "welcome") {
          welcomed = true;
          open += 1;
          dialled();
          beat = setInterval(
            () =>
              send({
                case: "heartbeat",
                value: {
                  $typeName: "leveret.v1.Heartbeat",
                  sequence: 1n,
                  memoryFreeMib: 1n,
                  diskFreeMib: 1n,
                  load1: 0,
                },
              }),
            frame.value.heartbeatIntervalMs,
          );
        }
        if (frame.case === "op") this.#answer(frame.value, send);
        if (frame.case === "goodbye") break;
      }
    } catch {
      // Dropped: that is what some of the measurements are about.
    } finally {
      dialled();
      if (welcomed) open -= 1;
      clearInterval(beat);
      up.close();
      abort.abort();
      manager.abort();
    }
    return welcomed;
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

  #answer(op: Op, send: (frame: AgentFrame["frame"]) => unknown): void {
    const { opId, machineId, generation, command } = op;
    send({ case: "ack", value: { $typeName: "leveret.v1.Ack", opId } });
    const sequence = (this.#sequences.get(machineId) ?? 0n) + 1n;
    this.#sequences.set(machineId, sequence);
    const status = create(MachineStatusSchema, {
      machineId,
      generation,
      sequence,
      state: command.case === "start" ? MachineState.STARTED : MachineState.STOPPED,
      incarnation: command.case === "start" ? command.value.incarnation : 1n,
    });
    const result = { opId, machineId, errorReason: "", errorMessage: "", status };
    send({ case: "result", value: { $typeName: "leveret.v1.Result", ...result } });
  }
}

setInterval(() => {
  if (open === printed) return;
  printed = open;
  process.stdout.write(`${open}\n`);
}, PRINT_MS);
await Promise.all(Array.from({ length: Number(count) }, () => new Agent().live()));
