/**
 * Uploads to a host from any replica: its own hub where the stream ends here, else the owner's,
 * asked over HTTP. The body is what is written, as it is written; the answer says how it ended.
 */
import { z } from "zod";
import { LvError, isReason } from "../../proto/errors.ts";
import type { Loaded, Upload, Uploads } from "../ops/load-image.ts";
import type { Owners } from "./owners.ts";

export const UPLOAD_PATH = "/internal/load";

export const UploadQuery = z.object({
  host: z.string().min(1).max(64),
  tag: z.string().max(1_024).default(""),
});

const Answer = z.union([
  z.object({
    loaded: z.object({ reference: z.string(), digest: z.string(), sizeBytes: z.number() }),
  }),
  z.object({ error: z.object({ reason: z.string(), message: z.string() }) }),
]);

export class RoutedUploads implements Uploads {
  readonly #owners: Owners;
  readonly #local: Uploads;

  constructor(owners: Owners, local: Uploads) {
    this.#owners = owners;
    this.#local = local;
  }

  async open(hostId: string, tag: string, signal: AbortSignal): Promise<Upload> {
    const owner = await this.#owners.elsewhere(hostId);
    if (owner === null) return await this.#local.open(hostId, tag, signal);
    const url = `${owner}${UPLOAD_PATH}?${new URLSearchParams({ host: hostId, tag }).toString()}`;
    return new RemoteUpload(url, this.#owners.secret, signal);
  }
}

class RemoteUpload implements Upload {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #gone = new AbortController();
  readonly #answer: Promise<Loaded>;
  #failure: LvError | null = null;
  #abandon: (failure: LvError) => void = () => undefined;

  constructor(url: string, secret: string, signal: AbortSignal) {
    const pipe = new TransformStream<Uint8Array, Uint8Array>();
    this.#writer = pipe.writable.getWriter();
    // What ends it is in the answer.
    this.#writer.closed.catch(() => undefined);
    this.#answer = ask(url, secret, pipe.readable, AbortSignal.any([signal, this.#gone.signal]));
    this.#answer.then(
      () => this.#end(new LvError("LINK_LOST", "The host's replica ended the upload early")),
      (error: unknown) => this.#end(LvError.from(error)),
    );
  }

  async write(chunk: Uint8Array): Promise<void> {
    // The other side may end it before it has read all: then nobody takes the chunk. Not
    // Promise.race with the answer: that keeps a reaction per chunk.
    await new Promise<void>((resolve, reject) => {
      this.#abandon = reject;
      if (this.#failure !== null) reject(this.#failure);
      else this.#writer.write(chunk).then(resolve, () => undefined);
    });
  }

  #end(failure: LvError): void {
    this.#failure ??= failure;
    this.#abandon(this.#failure);
  }

  async finish(): Promise<Loaded> {
    this.#writer.close().catch(() => undefined);
    return await this.#answer;
  }

  close(): void {
    this.#gone.abort();
  }
}

async function ask(
  url: string,
  secret: string,
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
): Promise<Loaded> {
  try {
    const headers = { authorization: `Bearer ${secret}` };
    const response = await fetch(url, { method: "POST", headers, body, signal });
    if (!response.ok)
      throw new LvError("LINK_LOST", `The host's replica answered ${response.status}`);
    const answer = Answer.parse(await response.json());
    if ("loaded" in answer) return answer.loaded;
    const { reason, message } = answer.error;
    throw new LvError(isReason(reason) ? reason : "INTERNAL", message);
  } catch (error) {
    if (error instanceof LvError) throw error;
    if (signal.aborted) throw new LvError("CANCELLED", "The sender went away");
    throw new LvError("LINK_LOST", "The host's replica does not answer", { cause: error });
  }
}

/** The other side of `ask`: never throws, says how it ended. */
export async function takeUpload(
  local: Uploads,
  { host, tag }: z.infer<typeof UploadQuery>,
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<z.infer<typeof Answer>> {
  let upload: Upload | null = null;
  try {
    upload = await local.open(host, tag, signal);
    for await (const chunk of body) await upload.write(chunk);
    return { loaded: await upload.finish() };
  } catch (error) {
    const { reason, message } = LvError.from(error);
    return { error: { reason, message } };
  } finally {
    upload?.close();
  }
}
