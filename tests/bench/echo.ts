/**
 * The hub's way of speaking gRPC beside @grpc/grpc-js on Node: both send back what they
 * are sent, to the same client and in turns. Memory is what the server holds alone with
 * so many quiet streams, over what it held before the first.
 */
import { join } from "node:path";
import { type Figure, makeFigure } from "./report.ts";
import { cpuMs, Lines, settledKib } from "./memory.ts";

const DIRECTORY = import.meta.dir;
const PROTO = join(DIRECTORY, "..", "..", "proto", "leveret", "v1", "agent.proto");
const PRELOAD = join(DIRECTORY, "..", "kit", "gc-on-signal.ts");
const OURS = [process.execPath, `--preload=${PRELOAD}`, join(DIRECTORY, "echo-hub.ts")];
const PEER = ["node", "--expose-gc", join(DIRECTORY, "echo-peer.mjs"), PROTO];
const ROUNDS = 7;
const SECONDS = 1.5;
const STREAMS = 64;
const IN_FLIGHT = 8;
const QUIET_STREAMS = 1_000;

type Say = (line: string) => void;

/** Runs the load against a server of its own; gives the load's answers and the server. */
async function against<T>(
  server: string[],
  load: number[],
  work: (answers: Lines, server: { pid: number; idleKib: number }) => Promise<T>,
): Promise<T> {
  using served = new Lines(server);
  const port = await served.next();
  const idleKib = load.at(-1) === 0 ? await settledKib(served.pid) : 0;
  using loading = new Lines([
    process.execPath,
    join(DIRECTORY, "echo-load.ts"),
    port,
    ...load.map(String),
  ]);
  return await work(loading, { pid: served.pid, idleKib });
}

/** A second, and the server's own CPU for each: the part that others on the machine change less. */
type Echoes = { rate: number; cpuUs: number };

function throughput(server: string[]): Promise<Echoes> {
  return against(server, [STREAMS, IN_FLIGHT, SECONDS], async (answers, { pid }) => {
    await answers.next(); // warm
    const before = cpuMs(pid);
    const rate = Number(await answers.next());
    return { rate, cpuUs: ((cpuMs(pid) - before) * 1_000) / (rate * SECONDS) };
  });
}

function memory(server: string[]): Promise<number> {
  return against(server, [QUIET_STREAMS, 1, 0], async (answers, { pid, idleKib }) => {
    await answers.next();
    return ((await settledKib(pid)) - idleKib) / QUIET_STREAMS;
  });
}

export async function benchEcho(say: Say): Promise<Figure[]> {
  const ours: Echoes[] = [];
  const peer: Echoes[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    ours.push(await throughput(OURS));
    peer.push(await throughput(PEER));
    say(`echoes/s: ours ${ours.at(-1)?.rate.toFixed(0)}, peer ${peer.at(-1)?.rate.toFixed(0)}`);
  }
  const both = (figure: string, unit: string, of: (echoes: Echoes) => number): Figure =>
    makeFigure({ bench: "hub", figure, unit }, ours.map(of), peer.map(of));
  const held = { ours: await memory(OURS), peer: await memory(PEER) };
  say(`KiB per quiet stream: ours ${held.ours.toFixed(1)}, peer ${held.peer.toFixed(1)}`);
  return [
    both("echo_throughput", "1/s", ({ rate }) => rate),
    both("echo_cpu", "µs", ({ cpuUs }) => cpuUs),
    makeFigure({ bench: "hub", figure: "echo_memory", unit: "KiB" }, [held.ours], [held.peer]),
  ];
}
