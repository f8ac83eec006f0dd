/**
 * A machine's output, from its log file. Following waits for a change of the file
 * (inotify, and a look every POLL_MS for what that misses) and ends when nothing
 * runs or is about to run and all that was written has been sent. The order matters:
 * first "is it over", then "read what is left"; the other way round loses the lines
 * in between.
 */
import { create } from "@bufbuild/protobuf";
import { type FSWatcher, watch } from "node:fs";
import { LIMITS } from "../../lib/limits.ts";
import { OutputLogReader } from "../../lib/output-log-reader.ts";
import {
  LogChunk_Stream,
  type LogChunk,
  LogChunkSchema,
  type LogSession,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Fleet } from "../runtime/fleet.ts";

const POLL_MS = 200;
const STREAMS = [
  LogChunk_Stream.UNSPECIFIED,
  LogChunk_Stream.STDOUT,
  LogChunk_Stream.STDERR,
  LogChunk_Stream.SYSTEM,
];

/** Throws MACHINE_NOT_FOUND; ends early, without an error, when the signal aborts. */
export async function* logFrames(
  fleet: Fleet,
  machineId: string,
  request: LogSession,
  signal: AbortSignal,
): AsyncGenerator<LogChunk> {
  const machine = fleet.get(machineId);
  const path = fleet.driver.outputPath(machineId);
  const reader = new OutputLogReader(path, Number(request.afterSequence));
  const change = new Change(path);
  const unwatch = machine.watch(() => change.wake());
  const onAbort = (): void => change.wake();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    while (!signal.aborted) {
      const over = !request.follow || machine.settled;
      for (
        let records = reader.read(LIMITS.sessionChunkBytes);
        records.length > 0 && !signal.aborted;
        records = reader.read(LIMITS.sessionChunkBytes)
      )
        for (const record of records)
          yield create(LogChunkSchema, {
            sequence: BigInt(record.sequence),
            timeMs: BigInt(record.timeMs),
            stream: STREAMS[record.stream] ?? LogChunk_Stream.UNSPECIFIED,
            data: record.data,
            incarnation: BigInt(record.incarnation),
          });
      if (over) return;
      await change.next();
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
    unwatch();
    change.close();
    reader.close();
  }
}

/**
 * Resolves at the next change of the file, or after POLL_MS. The file and not its
 * directory is watched: the guest's disk is in there too, and its every write would
 * wake us.
 */
class Change {
  readonly #path: string;
  #watcher: FSWatcher | null = null;
  #changed = false;
  #wake: (() => void) | null = null;

  constructor(path: string) {
    this.#path = path;
  }

  wake(): void {
    this.#changed = true;
    this.#wake?.();
  }

  async next(): Promise<void> {
    this.#watch();
    if (!this.#changed)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, POLL_MS);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    this.#wake = null;
    this.#changed = false;
  }

  close(): void {
    this.#watcher?.close();
    this.#watcher = null;
  }

  #watch(): void {
    if (this.#watcher !== null) return;
    try {
      this.#watcher = watch(this.#path, { persistent: false }, (event) => {
        // Rotated or removed: what we hold is not the file of that name any more.
        if (event === "rename") this.close();
        this.wake();
      });
      this.#watcher.on("error", () => this.close());
    } catch {
      // There is no output yet, or inotify is used up: the poll does it.
    }
  }
}
