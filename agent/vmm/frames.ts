/**
 * Frames of the guest channel (proto/guest.ts). What comes up is hostile: output
 * is passed on as it arrives and never collected, other payloads are collected up
 * to a small limit.
 */
import {
  GUEST_FRAME,
  GUEST_HEADER_BYTES,
  GUEST_PAYLOAD_MAX_BYTES,
  HOST_FRAME,
  RUN_FIELD,
} from "../../proto/guest.ts";

/** Of hello, started, exit, error and log. */
const SMALL_PAYLOAD_MAX_BYTES = 16 << 10;

export type GuestFrame = { type: number; payload: Uint8Array };

export class FrameError extends Error {
  override readonly name = "FrameError";
}

const isOutput = (type: number): boolean =>
  type === GUEST_FRAME.stdout || type === GUEST_FRAME.stderr;

export class FrameParser {
  readonly #header = new Uint8Array(GUEST_HEADER_BYTES);
  #headerFilled = 0;
  #type = 0;
  #left = 0;
  #collected = new Uint8Array(0);
  #collectedFilled = 0;

  /**
   * The frames that `chunk` brings to an end; an output frame may come in several
   * parts, each a frame here, whose payload is a view of chunk. Throws FrameError.
   */
  *push(chunk: Uint8Array): Generator<GuestFrame> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#headerFilled < GUEST_HEADER_BYTES) {
        const part = chunk.subarray(at, at + GUEST_HEADER_BYTES - this.#headerFilled);
        this.#header.set(part, this.#headerFilled);
        this.#headerFilled += part.length;
        at += part.length;
        if (this.#headerFilled < GUEST_HEADER_BYTES) return;
        this.#begin();
      }
      const part = chunk.subarray(at, at + this.#left);
      this.#left -= part.length;
      at += part.length;
      if (this.#left === 0) this.#headerFilled = 0;
      if (isOutput(this.#type)) {
        if (part.length > 0) yield { type: this.#type, payload: part };
      } else {
        this.#collected.set(part, this.#collectedFilled);
        this.#collectedFilled += part.length;
        if (this.#left === 0) yield { type: this.#type, payload: this.#collected };
      }
    }
  }

  #begin(): void {
    const view = new DataView(this.#header.buffer);
    this.#left = view.getUint32(0, true);
    this.#type = view.getUint16(4, true);
    if (view.getUint16(6, true) !== 0) throw new FrameError("a frame header is malformed");
    const max = isOutput(this.#type) ? GUEST_PAYLOAD_MAX_BYTES : SMALL_PAYLOAD_MAX_BYTES;
    if (this.#left > max)
      throw new FrameError(`a frame of type ${this.#type} has ${this.#left} bytes`);
    this.#collected = new Uint8Array(isOutput(this.#type) ? 0 : this.#left);
    this.#collectedFilled = 0;
  }
}

export function encodeFrame(type: number, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(GUEST_HEADER_BYTES + payload.length);
  const view = new DataView(frame.buffer);
  view.setUint32(0, payload.length, true);
  view.setUint16(4, type, true);
  frame.set(payload, GUEST_HEADER_BYTES);
  return frame;
}

export type RunOrder = {
  argv: readonly string[];
  env: readonly string[];
  cwd: string;
  user: string;
  hostname: string;
  /** "<interface> <address>/<prefix> <gateway>" each. */
  networks: readonly string[];
  resolvConf: string;
  seed: Uint8Array;
  /** Nanoseconds since the epoch. */
  clockNs: bigint;
};

export function encodeRun(run: RunOrder): Uint8Array {
  const encoder = new TextEncoder();
  const clock = new DataView(new ArrayBuffer(8));
  clock.setBigUint64(0, run.clockNs, true);
  const fields: (readonly [number, Uint8Array])[] = [
    ...run.argv.map((value) => [RUN_FIELD.argv, encoder.encode(value)] as const),
    ...run.env.map((value) => [RUN_FIELD.env, encoder.encode(value)] as const),
    [RUN_FIELD.cwd, encoder.encode(run.cwd)],
    [RUN_FIELD.user, encoder.encode(run.user)],
    [RUN_FIELD.hostname, encoder.encode(run.hostname)],
    ...run.networks.map((value) => [RUN_FIELD.network, encoder.encode(value)] as const),
    [RUN_FIELD.resolv, encoder.encode(run.resolvConf)],
    [RUN_FIELD.seed, run.seed],
    [RUN_FIELD.clock, new Uint8Array(clock.buffer)],
  ];
  const payload = new Uint8Array(fields.reduce((sum, [, value]) => sum + 8 + value.length, 0));
  const view = new DataView(payload.buffer);
  let at = 0;
  for (const [field, value] of fields) {
    view.setUint16(at, field, true);
    view.setUint32(at + 4, value.length, true);
    payload.set(value, at + 8);
    at += 8 + value.length;
  }
  return encodeFrame(HOST_FRAME.run, payload);
}

export function encodeSignal(signal: number): Uint8Array {
  const payload = new DataView(new ArrayBuffer(4));
  payload.setUint32(0, signal, true);
  return encodeFrame(HOST_FRAME.signal, new Uint8Array(payload.buffer));
}

export const encodePowerOff = (): Uint8Array => encodeFrame(HOST_FRAME.poweroff, new Uint8Array(0));
