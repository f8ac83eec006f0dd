/**
 * The hub's side of LoadSession: data goes down as far as the agent has given credit, which it
 * does as the bytes reach its disk. One task reads what comes up; the writer waits for it.
 *
 *   write… ─ data (credit) ─► finish ─ data_end ─► loaded, end
 *                └─ the agent ends it, or the link drops ─► every wait throws
 */
import { LvError, isReason } from "../../proto/errors.ts";
import type { SessionEnd, SessionFrame } from "../../proto/gen/leveret/v1/agent_pb.js";
import { LIMITS } from "../../lib/limits.ts";
import type { Loaded, Upload, Uploads } from "../ops/load-image.ts";
import type { Attachments, Joined } from "./attach.ts";

export class HubUploads implements Uploads {
  readonly #attachments: Attachments;

  constructor(attachments: Attachments) {
    this.#attachments = attachments;
  }

  async open(hostId: string, tag: string, signal: AbortSignal): Promise<Upload> {
    const kind = { case: "load", value: { $typeName: "leveret.v1.LoadSession", tag } } as const;
    const request = { machineId: "", creditBytes: 0n, kind };
    return new AgentUpload(await this.#attachments.join(hostId, request, signal), signal);
  }
}

class AgentUpload implements Upload {
  readonly #joined: Joined;
  readonly #loaded = Promise.withResolvers<Loaded>();
  readonly #signal: AbortSignal;
  readonly #onAbort = (): void => this.#fail(new LvError("CANCELLED", "The sender went away"));
  #credit = 0;
  #failure: LvError | null = null;
  #wake: () => void = () => undefined;
  /** Body chunks may be of any size; frames are not. */
  #rest: Uint8Array = new Uint8Array(0);

  constructor(joined: Joined, signal: AbortSignal) {
    this.#joined = joined;
    this.#signal = signal;
    this.#loaded.promise.catch(() => undefined); // asked for at the end, if at all
    signal.addEventListener("abort", this.#onAbort, { once: true });
    void this.#read();
  }

  async write(chunk: Uint8Array): Promise<void> {
    const frameBytes = LIMITS.sessionChunkBytes;
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    while (bytes.length >= frameBytes) {
      await this.#send(bytes.subarray(0, frameBytes));
      bytes = bytes.subarray(frameBytes);
    }
    // A copy: the caller's buffer is its own again.
    this.#rest = Uint8Array.from(bytes);
  }

  async finish(): Promise<Loaded> {
    if (this.#rest.length > 0) await this.#send(this.#rest);
    this.#down({ case: "dataEnd", value: { $typeName: "leveret.v1.SessionDataEnd" } });
    return await this.#loaded.promise;
  }

  close(): void {
    this.#signal.removeEventListener("abort", this.#onAbort);
    this.#joined.release();
  }

  async #send(value: Uint8Array): Promise<void> {
    while (this.#credit <= 0 && this.#failure === null)
      await new Promise<void>((resolve) => (this.#wake = resolve));
    if (this.#failure !== null) throw this.#failure;
    this.#credit -= value.length;
    this.#down({ case: "data", value });
  }

  #down(frame: SessionFrame["frame"]): void {
    if (!this.#joined.send(frame))
      throw this.#failure ?? new LvError("LINK_LOST", "The host's session broke off");
  }

  /** Never rejects. */
  async #read(): Promise<void> {
    const { frames } = this.#joined;
    try {
      for (;;) {
        const next = await frames.next();
        if (next.done === true) break;
        const { frame } = next.value;
        if (frame.case === "credit") {
          this.#credit += Number(frame.value.bytes);
          this.#wake();
        } else if (frame.case === "loaded") {
          const { reference, digest, sizeBytes } = frame.value;
          this.#loaded.resolve({ reference, digest, sizeBytes: Number(sizeBytes) });
        } else if (frame.case === "end") {
          this.#fail(errorOf(frame.value));
          return;
        }
      }
      this.#fail(new LvError("LINK_LOST", "The host's session broke off"));
    } catch (cause) {
      this.#fail(new LvError("LINK_LOST", "The host's session broke off", { cause }));
    }
  }

  /** The first failure counts; after `loaded` there is none. */
  #fail(failure: LvError): void {
    this.#failure ??= failure;
    this.#loaded.reject(this.#failure);
    this.#wake();
  }
}

function errorOf({ errorReason, errorMessage }: SessionEnd): LvError {
  if (errorReason === "") return new LvError("LINK_LOST", "The host ended the session early");
  return new LvError(
    isReason(errorReason) ? errorReason : "INTERNAL",
    errorMessage.slice(0, 4_096),
  );
}
