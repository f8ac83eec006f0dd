/**
 * The agent's side of LoadSession: data comes down, credit goes up as it reaches the disk, and
 * at last what the image is called here. The hub never has more than CREDIT_BYTES under way, so
 * that an upload of any size takes that much memory.
 *
 *   hub: data… data_end ─► Intake ─► file ─► Images.load ─► loaded
 */
import type { SessionFrame } from "../../proto/gen/leveret/v1/agent_pb.js";
import { LvError } from "../../proto/errors.ts";
import type { Fleet } from "../runtime/fleet.ts";
import { receiveArchive } from "../runtime/receive-archive.ts";

const CREDIT_BYTES = 1 << 20;
/** A frame that crosses the limit is whole. */
const INTAKE_MAX_BYTES = 2 * CREDIT_BYTES;

type Event = { done: true } | { failed: LvError } | { chunk: Uint8Array };

/** What came down and was not written yet. One reader. */
export class Intake implements AsyncIterable<Uint8Array> {
  readonly #events: Event[] = [];
  #bytes = 0;
  #wake: () => void = () => undefined;

  push(chunk: Uint8Array): void {
    this.#bytes += chunk.length;
    if (this.#bytes > INTAKE_MAX_BYTES)
      this.fail(new LvError("LIMIT_EXCEEDED", "More data was sent than was asked for"));
    else this.#put({ chunk });
  }

  /** All data is here. */
  end(): void {
    this.#put({ done: true });
  }

  fail(failed: LvError): void {
    this.#put({ failed });
  }

  #put(event: Event): void {
    this.#events.push(event);
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      const event = this.#events.shift();
      if (event === undefined) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      if ("done" in event) return;
      if ("failed" in event) throw event.failed;
      this.#bytes -= event.chunk.length;
      yield event.chunk;
    }
  }
}

/** Frames upward. Throws what the load throws. */
export async function* loadFrames(
  fleet: Fleet,
  dir: string,
  tag: string,
  intake: Intake,
): AsyncGenerator<SessionFrame["frame"]> {
  let written = 0;
  let settled = false;
  let wake: () => void = () => undefined;
  const loading = receiveArchive(fleet.images, dir, tag === "" ? null : tag, intake, (bytes) => {
    written += bytes;
    wake();
  }).finally(() => {
    settled = true;
    wake();
  });
  loading.catch(() => undefined); // awaited below, unless the reader has gone
  yield credit(CREDIT_BYTES);
  while (!settled) {
    if (written >= CREDIT_BYTES / 2) {
      const bytes = written;
      written = 0;
      yield credit(bytes);
    } else await new Promise<void>((resolve) => (wake = resolve));
  }
  const { reference, digest, sizeBytes } = await loading;
  const value = { reference, digest, sizeBytes: BigInt(sizeBytes) };
  yield { case: "loaded", value: { $typeName: "leveret.v1.LoadedImage", ...value } };
}

function credit(bytes: number): SessionFrame["frame"] {
  return {
    case: "credit",
    value: { $typeName: "leveret.v1.SessionCredit", bytes: BigInt(bytes) },
  };
}
