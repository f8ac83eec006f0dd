/** Work that is done again and again: one run at a time, an error is logged and the loop goes on. */
import type { Clock } from "../lib/clock.ts";
import type { Log } from "../lib/log.ts";

export type LoopOptions = {
  name: string;
  /** Pause between the end of one run and the start of the next. */
  ms: number;
  work: () => Promise<void>;
  clock: Clock;
  log: Log;
};

/** Disposing waits for the run under way. */
export function startLoop(options: LoopOptions): AsyncDisposable {
  const { name, ms, work, clock, log } = options;
  const stop = new AbortController();
  const run = async (): Promise<void> => {
    for (;;) {
      try {
        await clock.sleep(ms, stop.signal);
      } catch {
        return; // asked to stop
      }
      try {
        await work();
      } catch (error) {
        log.error({ loop: name, err: error }, "a periodic run failed");
      }
    }
  };
  const done = run();
  return {
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      await done;
    },
  };
}
