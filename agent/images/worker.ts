/**
 * The image worker: a thread, because decompressing, hashing and walking tars would stall the
 * agent's link. Jobs run side by side; the answer to a job is exactly one "built" or "failed".
 */
import { systemClock } from "../../lib/clock.ts";
import { LvError } from "../../proto/errors.ts";
import { ImageBuilder } from "./build.ts";
import type { ImageProgress, Login } from "./types.ts";
import type { Answer, FromWorker, Question, ToWorker } from "./worker-protocol.ts";

const PROGRESS_INTERVAL_MS = 200;

declare const self: Worker;

const post = (message: FromWorker): void => self.postMessage(message);

let builder: ImageBuilder | null = null;

self.onmessage = ({ data }: MessageEvent<ToWorker>): void => {
  switch (data.type) {
    case "open":
      builder = new ImageBuilder(data.dir, data.config, systemClock, (message, fields) =>
        post({ type: "note", message, fields }),
      );
      builder.onChange = () => post({ type: "changed" });
      return;
    case "ensure":
      void run(data.job, data.reference, data.login);
      return;
    case "ask":
      void ask(data.job, data.question);
      return;
    case "roots":
      builder?.setRoots(data.digests);
      return;
    case "collect":
      void collect();
      return;
    case "close":
      void (builder?.close() ?? Promise.resolve()).finally(() => post({ type: "closed" }));
      return;
    default: {
      const rest: never = data;
      return rest;
    }
  }
};

/** Never rejects. */
async function run(job: number, reference: string, login: Login | null): Promise<void> {
  try {
    if (builder === null) throw new LvError("INTERNAL", "The image worker was not opened");
    const watch = calmly((progress) => post({ type: "progress", job, progress }));
    post({ type: "built", job, image: await builder.ensure(reference, watch, login) });
  } catch (thrown) {
    fail(job, thrown);
  }
}

/** Never rejects. */
async function ask(job: number, question: Question): Promise<void> {
  try {
    if (builder === null) throw new LvError("INTERNAL", "The image worker was not opened");
    post({ type: "answer", job, answer: await answer(builder, question) });
  } catch (thrown) {
    fail(job, thrown);
  }
}

async function answer(from: ImageBuilder, question: Question): Promise<Answer> {
  const stock = await from.stock();
  switch (question.kind) {
    case "list":
      return await stock.list();
    case "pin":
      await stock.pin(question.digest, question.pinned);
      return null;
    case "remove":
      return await stock.remove(question.digest);
    case "prune":
      return await stock.prune(question.all);
    case "load":
      return await from.load(question.path, question.tag);
    default: {
      const rest: never = question;
      return rest;
    }
  }
}

function fail(job: number, thrown: unknown): void {
  const { reason, message, cause } = LvError.from(thrown);
  const detail = cause instanceof Error ? (cause.stack ?? cause.message) : "";
  post({ type: "failed", job, reason, message, detail });
}

/** Never rejects: nobody waits for room that is not asked for yet. */
async function collect(): Promise<void> {
  try {
    await builder?.collect();
  } catch (thrown) {
    const cause = thrown instanceof Error ? thrown.message : String(thrown);
    post({
      type: "note",
      message: "the image cache could not be looked through",
      fields: { cause },
    });
  }
}

/** A few reports a second, and always the first of a phase. */
function calmly(watch: (progress: ImageProgress) => void): (progress: ImageProgress) => void {
  let phase = "";
  let nextAt = 0;
  return (progress) => {
    const now = performance.now();
    if (progress.phase === phase && now < nextAt) return;
    phase = progress.phase;
    nextAt = now + PROGRESS_INTERVAL_MS;
    watch(progress);
  };
}
