/**
 * The hub's way of speaking gRPC beside @grpc/grpc-js on Node: both send back what they
 * are sent, to the same client and in turns. Memory is what the server holds alone with
 * so many quiet streams, over what it held before the first.
 */
import { join } from "node:path";
import { type Figure, makeFigure } from "./report.ts";
import { Lines, settledKib } from "./memory.ts";

const DIRECTORY = import.meta.dir;
const PROTO = join(DIRECTORY, "..", "..", "proto", "leveret", "v1", "agent.proto");
const PRELOAD = join(DIRECTORY, "..", "kit", "gc-on-signal.ts");
const OURS = [process.execPath, `--preload=${PRELOAD}`, join(DIRECTORY, "echo-hub.ts")];
const PEER = ["node", "--expose-gc", join(DIRECTORY, "echo-peer.mjs"), PROTO];
const ROUNDS = 3;
const SECONDS = 3;
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

function throughput(server: string[]): Promise<number> {
  return against(server, [STREAMS, IN_FLIGHT, SECONDS], async (answers) =>
    Number(await answers.next()),
  );
}

function memory(server: string[]): Promise<number> {
  return against(server, [QUIET_STREAMS, 1, 0], async (answers, { pid, idleKib }) => {
    await answers.next();
    return ((await settledKib(pid)) - idleKib) / QUIET_STREAMS;
  });
}

export async function benchEcho(say: Say): Promise<Figure[]> {
  const rates = { ours: [] as number[], peer: [] as number[] };
  for (let round = 0; round < ROUNDS; round += 1) {
    rates.ours.push(await throughput(OURS));
    rates.peer.push(await throughput(PEER));
    say(`echoes/s: ours ${rates.ours.at(-1)?.toFixed(0)}, peer ${rates.peer.at(-1)?.toFixed(0)}`);
  }
  const held = { ours: await memory(OURS), peer: await memory(PEER) };
  say(`KiB per quiet stream: ours ${held.ours.toFixed(1)}, peer ${held.peer.toFixed(1)}`);
  const names = (figure: string, unit: string) => ({ bench: "hub", figure, unit });
  return [
    makeFigure(names("echo_throughput", "1/s"), rates.ours, rates.peer),
    makeFigure(names("echo_memory", "KiB"), [held.ours], [held.peer]),
  ];
}
