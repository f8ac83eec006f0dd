/**
 * How a command gets into the lab and its output out. Nothing can dial into the
 * lab, so the lab dials out:
 *
 *   lev                                         exec-server (in the lab)
 *    │ listens on a loopback port                │ reads lines from ttyS1
 *    ├── "PORT TOKEN\n" over exec.sock ─ ttyS1 ─►│
 *    │◄────────── TCP to 10.0.2.2:PORT ──────────┤ sends "TOKEN\n"
 *    ├── ExecRequest, one JSON line ────────────►│ runs it
 *    │◄── frames: u8 type, u32 length LE, bytes ─┤ the last is exit or error
 *
 * The token tells the lab from any other local process that finds the port.
 * When lev goes away the connection closes and the server kills the command;
 * a detached one lives on.
 */
export type ExecRequest = {
  argv: string[];
  env: Record<string, string>;
  /** null = the checkout */
  cwd: string | null;
  /** null = stream the output; otherwise start it in a session of its own, its output in this file. */
  detachTo: string | null;
};

export const EXEC_FRAME = {
  stdout: 1,
  stderr: 2,
  exit: 3, // i32 code; 128 + signal when killed
  error: 4, // UTF-8: the command could not be started
  pid: 5, // u32, the answer to a detached request
} as const;

export const EXEC_HEADER_BYTES = 5;
export const EXEC_PAYLOAD_MAX_BYTES = 1 << 20;

/** The outer loopback, seen from inside QEMU's user network. */
export const OUTSIDE = "10.0.2.2";

export type ExecFrame = { type: number; payload: Buffer };

export function encodeFrame(type: number, payload: Uint8Array): Buffer {
  const frame = Buffer.alloc(EXEC_HEADER_BYTES + payload.length);
  frame.writeUInt8(type, 0);
  frame.writeUInt32LE(payload.length, 1);
  frame.set(payload, EXEC_HEADER_BYTES);
  return frame;
}

export function encodeInt(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
}

/** Cuts a byte stream into frames. Throws on a length beyond the limit. */
export async function* decodeFrames(source: AsyncIterable<Uint8Array>): AsyncGenerator<ExecFrame> {
  let pending: Buffer = Buffer.alloc(0);
  for await (const chunk of source) {
    pending = pending.length === 0 ? Buffer.from(chunk) : Buffer.concat([pending, chunk]);
    while (pending.length >= EXEC_HEADER_BYTES) {
      const length = pending.readUInt32LE(1);
      if (length > EXEC_PAYLOAD_MAX_BYTES)
        throw new Error(`lab frame of ${length} bytes is longer than ${EXEC_PAYLOAD_MAX_BYTES}`);
      const end = EXEC_HEADER_BYTES + length;
      if (pending.length < end) break;
      yield { type: pending.readUInt8(0), payload: pending.subarray(EXEC_HEADER_BYTES, end) };
      pending = pending.subarray(end);
    }
  }
}
