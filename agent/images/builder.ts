/**
 * The agent's door to images. Main thread; the work is done by one worker thread, made at the
 * first use and made again when it dies.
 *
 *   ensure(ref) ─┬─ a job for this reference is under way → wait for it too
 *                └─ else post "ensure" ── progress… ── "built" | "failed"
 *
 * Waiters come and go without touching the job: it belongs to the store. What a crash leaves
 * behind (temporary files, .part blobs) the next start removes or resumes.
 */
import { abortReason, type Clock } from "../../lib/clock.ts";
import type { Log } from "../../lib/log.ts";
import { LvError } from "../../proto/errors.ts";
import { Rate } from "./rate.ts";
import type {
  BuiltImage,
  EnsureOptions,
  ImageProgress,
  Images,
  LoadedImage,
  Login,
  NamedImage,
  RegistryConfig,
  Removed,
} from "./types.ts";
import type { Answer, FromWorker, Question, Questions, ToWorker } from "./worker-protocol.ts";

const CLOSE_TIMEOUT_MS = 5_000;

type Job = {
  /** Who waits for the same: the reference, and with whose credentials. */
  key: string;
  reference: string;
  rate: Rate;
  result: PromiseWithResolvers<BuiltImage>;
  watchers: Set<(progress: ImageProgress) => void>;
  last: ImageProgress | null;
};

export type ImageStoreOptions = {
  /** Holds `blobs/` and `images/`; one store per directory. Made when missing. */
  dir: string;
  config: RegistryConfig;
  log: Log;
  clock: Clock;
  /** Digests of the images that machines need, in any state but destroyed. */
  roots?: () => string[];
};

export class ImageStore implements Images {
  readonly #options: ImageStoreOptions;
  readonly #jobs = new Map<number, Job>();
  readonly #byKey = new Map<string, Job>();
  readonly #asked = new Map<number, PromiseWithResolvers<Answer>>();
  #changes = 0;
  #nextJob = 1;
  #worker: Worker | null = null;
  #workerClosed = Promise.withResolvers<void>();
  #closing: Promise<void> | null = null;
  constructor(options: ImageStoreOptions) {
    this.#options = options;
  }

  async ensure(reference: string, options: EnsureOptions = {}): Promise<BuiltImage> {
    const { signal, onProgress, login = null } = options;
    if (signal?.aborted === true) throw abortReason(signal);
    if (this.#closing !== null) throw shuttingDown();
    // Only its owner may wait for what was begun with a login: another may not be let in.
    const key = login === null ? reference : `${reference} ${login.username} ${login.password}`;
    const job = this.#byKey.get(key) ?? this.#start(key, reference, login);
    // Once settled the caller must hear nothing more.
    let settled = false;
    const watcher = (progress: ImageProgress): void => {
      if (!settled) onProgress?.(progress);
    };
    job.watchers.add(watcher);
    if (job.last !== null) watcher(job.last);
    const aborted = Promise.withResolvers<never>();
    const onAbort = (): void => {
      if (signal !== undefined) aborted.reject(abortReason(signal));
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      const image = await Promise.race([job.result.promise, aborted.promise]);
      watcher({
        phase: "ready",
        bytesDone: image.sizeBytes,
        bytesTotal: image.sizeBytes,
        layers: job.last?.layers ?? 0,
      });
      return image;
    } finally {
      settled = true;
      job.watchers.delete(watcher);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  async close(): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  /** Ends the worker without a word, as a crash would. For tests of what then happens. */
  killWorker(): void {
    this.#worker?.terminate();
  }

  async #close(): Promise<void> {
    const worker = this.#worker;
    if (worker !== null) {
      this.#send({ type: "close" });
      // A worker that does not answer is ended anyway: the next start cleans up after it.
      const late = new AbortController();
      await Promise.race([
        this.#workerClosed.promise,
        this.#options.clock.sleep(CLOSE_TIMEOUT_MS, late.signal).catch(() => undefined),
      ]);
      late.abort();
      this.#worker = null;
      worker.terminate();
    }
    this.#failAll(shuttingDown());
  }

  #start(key: string, reference: string, login: Login | null): Job {
    const job: Job = {
      key,
      reference,
      rate: new Rate(),
      result: Promise.withResolvers(),
      watchers: new Set(),
      last: null,
    };
    job.result.promise.catch(() => undefined); // every waiter may have left already
    const id = this.#nextJob;
    this.#nextJob += 1;
    this.#jobs.set(id, job);
    this.#byKey.set(key, job);
    this.#worker ??= this.#spawn();
    this.#sendRoots();
    this.#send({ type: "ensure", job: id, reference, login });
    return job;
  }

  get changes(): number {
    return this.#changes;
  }

  async list(): Promise<NamedImage[]> {
    return await this.#ask<"list">({ kind: "list" });
  }

  async pin(digest: string, pinned: boolean): Promise<void> {
    await this.#ask<"pin">({ kind: "pin", digest, pinned });
  }

  async remove(digest: string): Promise<Removed> {
    return await this.#ask<"remove">({ kind: "remove", digest });
  }

  async prune(all: boolean): Promise<Removed> {
    return await this.#ask<"prune">({ kind: "prune", all });
  }

  async load(path: string, tag: string | null): Promise<LoadedImage> {
    return await this.#ask<"load">({ kind: "load", path, tag });
  }

  async #ask<K extends keyof Questions>(
    question: Question & { kind: K },
  ): Promise<Questions[K]["answer"]> {
    if (this.#closing !== null) throw shuttingDown();
    const answer = Promise.withResolvers<Answer>();
    const id = this.#nextJob;
    this.#nextJob += 1;
    this.#asked.set(id, answer);
    this.#worker ??= this.#spawn();
    this.#sendRoots();
    this.#send({ type: "ask", job: id, question });
    // The worker's answer is of the kind that its question has.
    return (await answer.promise) as Questions[K]["answer"];
  }

  #spawn(): Worker {
    const worker = new Worker(new URL("./worker.ts", import.meta.url).href);
    this.#workerClosed = Promise.withResolvers();
    worker.onmessage = ({ data }: MessageEvent<FromWorker>): void => this.#receive(data);
    const died = (why: string): void => {
      this.#workerClosed.resolve();
      if (this.#worker !== worker) return;
      this.#worker = null;
      worker.terminate();
      this.#options.log.error({ why }, "the image worker ended");
      this.#failAll(new LvError("INTERNAL", "The image worker ended; start the machine again"));
    };
    worker.onerror = (event): void => died(event.message);
    worker.addEventListener("close", () => died("closed"));
    worker.postMessage({
      type: "open",
      dir: this.#options.dir,
      config: this.#options.config,
    } satisfies ToWorker);
    return worker;
  }

  /** Asks the worker to keep the disk between its watermarks; what it removes is in the log. */
  collect(): void {
    if (this.#closing !== null) return;
    this.#worker ??= this.#spawn();
    this.#sendRoots();
    this.#send({ type: "collect" });
  }

  #sendRoots(): void {
    this.#send({ type: "roots", digests: this.#options.roots?.() ?? [] });
  }

  #send(message: ToWorker): void {
    this.#worker?.postMessage(message);
  }

  #receive(message: FromWorker): void {
    switch (message.type) {
      case "note":
        this.#options.log.warn(message.fields, message.message);
        return;
      case "closed":
        this.#workerClosed.resolve();
        return;
      case "progress": {
        const job = this.#jobs.get(message.job);
        if (job === undefined) return;
        const bytesPerSecond = job.rate.add(message.progress, this.#options.clock.now());
        job.last = { ...message.progress, bytesPerSecond };
        for (const watch of job.watchers) watch(job.last);
        return;
      }
      case "changed":
        this.#changes += 1;
        return;
      case "answer": {
        const asked = this.#asked.get(message.job);
        this.#asked.delete(message.job);
        asked?.resolve(message.answer);
        return;
      }
      case "built":
        this.#take(message.job)?.result.resolve(message.image);
        return;
      case "failed": {
        const { reason, message: text, detail } = message;
        const job = this.#take(message.job);
        const error = new LvError(reason, text, { meta: { detail } });
        this.#options.log.warn({ image: job?.reference, reason, detail }, text);
        job?.result.reject(error);
        this.#asked.get(message.job)?.reject(error);
        this.#asked.delete(message.job);
        return;
      }
      default: {
        const rest: never = message;
        return rest;
      }
    }
  }

  #take(id: number): Job | undefined {
    const job = this.#jobs.get(id);
    this.#jobs.delete(id);
    if (job !== undefined) this.#byKey.delete(job.key);
    return job;
  }

  #failAll(error: LvError): void {
    for (const id of this.#jobs.keys()) this.#take(id)?.result.reject(error);
    for (const asked of this.#asked.values()) asked.reject(error);
    this.#asked.clear();
  }
}

function shuttingDown(): LvError {
  return new LvError("SHUTTING_DOWN", "The image store is closing");
}
