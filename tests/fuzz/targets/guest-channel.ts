/**
 * What init says: the same calls of the handler in the same order, or the same refusal,
 * whether it comes at once or in pieces; nothing after EXIT or ERROR but log lines; no
 * control character in what people get to read.
 */
import { FrameError } from "../../../agent/vmm/frames.ts";
import { type GuestHandler, GuestProtocol } from "../../../agent/vmm/guest-channel.ts";
import type { FuzzTarget } from "../engine.ts";
import { must } from "../must.ts";

type Heard = { calls: string[]; refusal: string };

function readable(text: string): string {
  must(!/\p{Cc}/u.test(text) && text.length <= 1_000, "text that a terminal would obey");
  return text;
}

/** Output is told by its bytes: how it is cut is nobody's promise. */
function listen(calls: string[]): GuestHandler {
  let output = 0;
  const note = (call: string): void => {
    must(!calls.some((one) => /^(exit|error)/.test(one)) || call.startsWith("log"), "a late call");
    calls.push(call);
    output = 0;
  };
  return {
    hello: (us) => note(`hello ${us}`),
    started: (pid) => note(`started ${pid}`),
    output: (stream, data) => {
      const same = calls.at(-1)?.startsWith(`${stream} `) ?? false;
      const sum = (same ? output : 0) + data.length;
      if (same) calls.pop();
      note(`${stream} ${sum}`);
      output = sum;
    },
    exit: (code, signal) => note(`exit ${code} ${signal}`),
    error: (kind, message) => note(`error ${kind} ${readable(message)}`),
    log: (line) => note(`log ${readable(line)}`),
    broken: () => undefined,
    closed: () => undefined,
  };
}

function hear(data: Uint8Array, pieceBytes: number): Heard {
  const calls: string[] = [];
  const protocol = new GuestProtocol(listen(calls));
  try {
    for (let at = 0; at < data.length; at += pieceBytes)
      protocol.push(data.subarray(at, at + pieceBytes));
  } catch (error) {
    // The protocol's own refusals are plain errors; a slip of ours is another class.
    const isRefusal =
      error instanceof FrameError || (error instanceof Error && error.name === "Error");
    if (!isRefusal) throw error;
    return { calls, refusal: error.message };
  }
  return { calls, refusal: "" };
}

function fuzz(data: Uint8Array): string {
  const stream = data.subarray(1);
  const whole = hear(stream, Math.max(1, stream.length));
  const pieces = hear(stream, 1 + ((data[0] ?? 0) % 40));
  must(JSON.stringify(whole) === JSON.stringify(pieces), "pieces that say something else");
  const kinds = whole.calls.map((call) => call.split(" ")[0]).join();
  return `${whole.refusal} ${kinds}`;
}

/** Headers: u32 length, u16 type, u16 zero. */
const words = [1, 2, 3, 4, 5, 6, 7, 8].map(
  (type) => new Uint8Array([[16, 4, 3, 0, 8, 6, 5, 1][type - 1] ?? 0, 0, 0, 0, type, 0, 0, 0]),
);

export const target: FuzzTarget = { fuzz, json: false, words };
