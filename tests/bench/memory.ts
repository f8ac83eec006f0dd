/** Processes whose memory is measured, and how that is done. */
import { readFileSync } from "node:fs";

const LOOKS = 6;
const LOOK_MS = 500;
/** Of /proc: 100 a second everywhere. */
const TICK_MS = 10;

/** KiB that no other process shares. */
function privateKib(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Private_Dirty:\s+(\d+) kB/m.exec(text)?.[1]);
}

/**
 * The least of several looks, each after the collection that SIGUSR2 asks for:
 * allocators give back slowly.
 */
export async function settledKib(pid: number): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let look = 0; look < LOOKS; look += 1) {
    process.kill(pid, "SIGUSR2");
    await Bun.sleep(LOOK_MS);
    least = Math.min(least, privateKib(pid));
  }
  return least;
}

/** Of user and system, since the process began. */
export function cpuMs(pid: number): number {
  // After the name, which may have anything in it: state is field 3, the times are 14 and 15.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS;
}

/** A child that answers in lines. */
export class Lines implements Disposable {
  readonly #child: Bun.Subprocess<"ignore", "pipe", "inherit">;
  readonly #lines: AsyncGenerator<string>;

  constructor(command: string[]) {
    this.#child = Bun.spawn(command, { stdio: ["ignore", "pipe", "inherit"] });
    this.#lines = linesOf(this.#child.stdout);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Throws when the child ends without another line. */
  async next(): Promise<string> {
    const line = await this.#lines.next();
    if (line.done === true) throw new Error(`It ended with ${await this.#child.exited}`);
    return line.value;
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const lines = `${rest}${decoder.decode(chunk, { stream: true })}`.split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}
