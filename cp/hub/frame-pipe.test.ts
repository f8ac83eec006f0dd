/** Two ends of one pipe, without a network between them. */
import { expect, test } from "bun:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { LIMITS } from "../../lib/limits.ts";
import { LvError } from "../../proto/errors.ts";
import { SessionFrameSchema, type SessionFrame } from "../../proto/gen/leveret/v1/agent_pb.js";
import { FramePipe } from "./frame-pipe.ts";

const data = (bytes: number, fill = 0): SessionFrame =>
  create(SessionFrameSchema, {
    frame: { case: "data", value: new Uint8Array(bytes).fill(fill) },
  });

const LOST = new LvError("LINK_LOST", "over");

function pair() {
  let deaf = false;
  const ends: FramePipe[] = [];
  const carrierTo = (at: number) => ({
    send: (message: string | Uint8Array) => void (deaf || ends[at]?.received(message)),
    close: () => ends[at]?.closed(),
  });
  const periods = { beatMs: 5, silenceMs: 50 };
  const [a, b] = [1, 0].map((at) => new FramePipe(carrierTo(at), periods));
  if (a === undefined || b === undefined) throw new Error("no pipes");
  ends.push(a, b);
  const silence = (): void => void (deaf = true);
  return { a, b, silence, [Symbol.dispose]: () => a.close(LOST) };
}

/** How many frames go before the writer waits. */
async function fill(pipe: FramePipe, frame: SessionFrame): Promise<number> {
  let sent = 0;
  void (async () => {
    for (; sent < 10_000; sent += 1) await pipe.send(frame);
  })().catch(() => undefined);
  for (let before = -1; before !== sent;) {
    before = sent;
    await new Promise((resolve) => setImmediate(resolve));
  }
  return sent;
}

async function outcome(frames: AsyncIterable<SessionFrame>) {
  let count = 0;
  try {
    for await (const _ of frames) count += 1;
    return { count, reason: null };
  } catch (error) {
    return { count, reason: LvError.from(error).reason };
  }
}

test("a writer is never more than a window ahead of the reader, in bytes and in frames", async () => {
  for (const [bytes, most] of [
    [64 << 10, 4],
    [0, 1_024],
    [LIMITS.frameBytes - 16, 1],
  ] as const) {
    using pipes = pair();
    const sent = await fill(pipes.a, data(bytes));
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThanOrEqual(most);
  }
});

test("frames go both ways at once, in order, and each end hears the other's end", async () => {
  using pipes = pair();
  const { a, b } = pipes;
  const write = async (pipe: FramePipe): Promise<void> => {
    for (let n = 0; n < 500; n += 1) await pipe.send(data(1_000 * (n % 90), n));
    pipe.end();
  };
  const read = async (pipe: FramePipe): Promise<number[]> => {
    const seen: number[] = [];
    for await (const { frame } of pipe.frames())
      if (frame.case === "data") seen.push(frame.value.length === 0 ? -1 : (frame.value[0] ?? -2));
    return seen;
  };
  const [, , atB, atA] = await Promise.all([write(a), write(b), read(b), read(a)]);
  const wanted = Array.from({ length: 500 }, (_, n) => (n % 90 === 0 ? -1 : n % 256));
  expect(atB).toEqual(wanted);
  expect(atA).toEqual(wanted);
});

test("what was sent before the end is read, and then its reason", async () => {
  using pipes = pair();
  for (let n = 0; n < 3; n += 1) await pipes.a.send(data(10));
  pipes.a.end(new LvError("NOT_FOUND", "No session"));
  expect(await outcome(pipes.b.frames())).toEqual({ count: 3, reason: "NOT_FOUND" });
});

test("an end that closes lets go of the writer and of the reader at the other", async () => {
  using pipes = pair();
  await fill(pipes.a, data(64 << 10));
  const waiting = pipes.a.send(data(64 << 10)).catch((error: unknown) => LvError.from(error));
  const reading = outcome(pipes.a.frames());
  pipes.b.close(new LvError("CANCELLED", "gone"));
  expect(await waiting).toMatchObject({ reason: "LINK_LOST" });
  expect(await reading).toEqual({ count: 0, reason: "LINK_LOST" });
  expect(pipes.a.over.aborted && pipes.b.over.aborted).toBe(true);
});

test("an end that falls silent is given up by the other", async () => {
  using pipes = pair();
  pipes.silence();
  expect((await outcome(pipes.a.frames())).reason).toBe("LINK_LOST");
});

test("whatever breaks the rules ends the pipe", async () => {
  const frame = toBinary(SessionFrameSchema, data(64 << 10));
  const breaches: (string | Uint8Array)[][] = [
    ["no JSON"],
    ['{"took":-1}'],
    ['{"took":1}'],
    [`{"end":{"reason":"","message":"${"x".repeat(40_000)}"}}`],
    [new Uint8Array([255, 255])],
    [new Uint8Array(LIMITS.frameBytes + 1)],
    ['{"end":{"reason":"","message":""}}', frame],
    Array.from({ length: 5 }, () => frame),
  ];
  for (const messages of breaches) {
    using pipes = pair();
    for (const message of messages) pipes.a.received(message);
    expect(pipes.a.over.aborted).toBe(true);
    expect(pipes.b.over.aborted).toBe(true);
  }
});
