/**
 * The agent's end of a VMM's control socket: newline-delimited JSON, pushes of
 * status at once and at each change, replies by id. A line that is too long or not
 * JSON of the contract closes the connection; the caller decides what that means.
 */
import { LIMITS } from "../../lib/limits.ts";
import { LvError, isReason } from "../../proto/errors.ts";
import type { VmmMetrics, VmmRequest, VmmStatus } from "../../proto/vmm.ts";
import { parseMetrics } from "./metrics.ts";
import { parseJson, parseStatus } from "./vmm-files.ts";

const REPLY_TIMEOUT_MS = 5_000;

type Action = VmmRequest extends infer R ? (R extends VmmRequest ? Omit<R, "id"> : never) : never;
/** What a reply carries beside its ok. */
type Answer = { metrics?: unknown };
type Waiter = { resolve: (answer: Answer) => void; reject: (error: LvError) => void };

export class VmmClient {
  readonly #machineId: string;
  readonly #onStatus: (status: VmmStatus) => void;
  readonly #closed = Promise.withResolvers<void>();
  readonly #waiters = new Map<number, Waiter>();
  #socket: Bun.Socket | null = null;
  #pending: Buffer = Buffer.alloc(0);
  #nextId = 1;

  private constructor(machineId: string, onStatus: (status: VmmStatus) => void) {
    this.#machineId = machineId;
    this.#onStatus = onStatus;
  }

  /** Rejects when nobody listens. */
  static async connect(
    path: string,
    machineId: string,
    onStatus: (status: VmmStatus) => void,
  ): Promise<VmmClient> {
    const client = new VmmClient(machineId, onStatus);
    client.#socket = await Bun.connect({
      unix: path,
      socket: {
        data: (_socket, bytes) => client.#receive(bytes),
        close: () => client.#end(),
        error: () => client.close(),
      },
    });
    return client;
  }

  /** Resolves when the connection is over, whoever ended it. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** Resolves at the VMM's ok; throws its reason, or VMM_FAULT when it does not answer. */
  async request(action: Action): Promise<Answer> {
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    const timer = setTimeout(
      () => reject(new LvError("VMM_FAULT", "The VMM process does not answer")),
      REPLY_TIMEOUT_MS,
    );
    this.#waiters.set(id, { resolve, reject });
    // A request is a few dozen bytes: a socket buffer that is full of them is a VMM that hangs.
    this.#socket?.write(`${JSON.stringify({ id, ...action })}\n`);
    if (this.#socket === null) reject(new LvError("VMM_FAULT", "The VMM process is gone"));
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#waiters.delete(id);
    }
  }

  /** As request; VMM_FAULT, too, for what are no metrics. */
  async metrics(): Promise<VmmMetrics> {
    const metrics = parseMetrics((await this.request({ action: "metrics" })).metrics);
    if (metrics !== null) return metrics;
    throw new LvError("VMM_FAULT", "The VMM process answered with something that is no metrics");
  }

  close(): void {
    this.#socket?.end();
    this.#end();
  }

  #end(): void {
    this.#socket = null;
    for (const waiter of this.#waiters.values())
      waiter.reject(new LvError("VMM_FAULT", "The VMM process closed its control socket"));
    this.#closed.resolve();
  }

  #receive(bytes: Buffer): void {
    // The buffer is the socket's: copied, since what is left over is kept.
    this.#pending = Buffer.concat([this.#pending, bytes]);
    for (let at = this.#pending.indexOf(10); at >= 0; at = this.#pending.indexOf(10)) {
      const line = this.#pending.toString("utf8", 0, at);
      this.#pending = this.#pending.subarray(at + 1);
      if (!this.#handle(parseJson(line))) return this.close();
    }
    if (this.#pending.length > LIMITS.controlLineBytes) this.close();
  }

  /** False when the message is not of the contract. */
  #handle(message: unknown): boolean {
    if (typeof message !== "object" || message === null) return false;
    if ("status" in message) {
      const status = parseStatus(message.status, this.#machineId);
      if (status !== null) this.#onStatus(status);
      return status !== null;
    }
    if (!("id" in message) || typeof message.id !== "number" || !("ok" in message)) return false;
    const waiter = this.#waiters.get(message.id);
    if (message.ok === true)
      waiter?.resolve("metrics" in message ? { metrics: message.metrics } : {});
    else waiter?.reject(refusal(message));
    return true;
  }
}

function refusal(message: object): LvError {
  const reason = "reason" in message && typeof message.reason === "string" ? message.reason : "";
  const text = "message" in message && typeof message.message === "string" ? message.message : "";
  return new LvError(isReason(reason) ? reason : "VMM_FAULT", text.slice(0, LIMITS.lastErrorBytes));
}
