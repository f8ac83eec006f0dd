/**
 * What long work looks like. For a person: one line that is rewritten. Otherwise
 * (CI, a file): a line at the start and one at the end of each step, and one every
 * ten seconds between, so that a log shows where the time went.
 */
import { systemClock } from "../lib/clock.ts";
import type { Machine } from "../proto/rest.ts";
import { err, isLive } from "./output.ts";
import { duration, layersOf, progressLine } from "./render.ts";

const LIVE_TICK_MS = 200;
const PLAIN_TICK_MS = 10_000;
const CLEAR = "\r\u001b[K";

/** Numbered steps with elapsed times on standard error. */
export class Steps {
  readonly #total: number;
  readonly #began = systemClock.now();
  #number = 0;

  constructor(total: number) {
    this.#total = total;
  }

  /** Runs the work under a line of its own; what it returns as `note` ends that line. */
  async step<T>(title: string, work: () => Promise<{ value: T; note?: string }>): Promise<T> {
    this.#number += 1;
    const label = `[${this.#number}/${this.#total}] ${title}`;
    const began = systemClock.now();
    const elapsed = (): string => duration(systemClock.now() - began);
    const live = isLive();
    if (!live) await err(`${label} ...\n`);
    const timer = setInterval(
      () => void err(live ? `${CLEAR}${label} ... ${elapsed()}` : `${label} ... ${elapsed()}\n`),
      live ? LIVE_TICK_MS : PLAIN_TICK_MS,
    );
    try {
      const { value, note } = await work();
      clearInterval(timer);
      await err(
        `${live ? CLEAR : ""}${label}: ${note === undefined ? "" : `${note}, `}${elapsed()}\n`,
      );
      return value;
    } catch (error) {
      clearInterval(timer);
      await err(`${live ? CLEAR : ""}${label}: failed after ${elapsed()}\n`);
      throw error;
    }
  }

  /** Since the first step. */
  total(): string {
    return duration(systemClock.now() - this.#began);
  }
}

/** The image's way onto the host, while `lev run` or `lev pull` waits for it. */
export class ImageProgressView {
  #last = "";
  #spokeAt = 0;

  /** `where`: the host, when there are several. */
  async show(image: string, progress: Machine["image_progress"], where = ""): Promise<void> {
    if (progress === null || progress.phase === "ready" || progress.phase === "failed") return;
    const name = where === "" ? image : `${image} on ${where}`;
    if (isLive()) {
      await err(`${CLEAR}${progressLine(name, progress, true).slice(0, columns() - 1)}`);
      this.#last = "live";
      return;
    }
    // Without a terminal the phases, and a line now and then: the bytes would be a flood.
    const now = systemClock.now();
    const step = `${progress.phase} ${name}`;
    if (step === this.#last && now - this.#spokeAt < PLAIN_TICK_MS) return;
    const again = step === this.#last;
    this.#last = step;
    this.#spokeAt = now;
    await err(
      again ? `${progressLine(name, progress, false)}\n` : `lev: ${step}${layersOf(progress)}\n`,
    );
  }

  async end(): Promise<void> {
    if (this.#last !== "" && isLive()) await err(CLEAR);
    this.#last = "";
  }
}

function columns(): number {
  return process.stderr.columns || 80;
}
