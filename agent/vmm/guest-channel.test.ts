import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GUEST_ERROR, GUEST_FRAME } from "../../proto/guest.ts";
import { encodeFrame } from "./frames.ts";
import { type GuestHandler, GuestProtocol, listenForGuest, printable } from "./guest-channel.ts";

function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

const hello = encodeFrame(GUEST_FRAME.hello, words(1, 0, 5000, 0));
const started = encodeFrame(GUEST_FRAME.started, words(77));
const out = encodeFrame(GUEST_FRAME.stdout, new TextEncoder().encode("x\n"));
const exit = encodeFrame(GUEST_FRAME.exit, words(7, 0));
const failed = encodeFrame(
  GUEST_FRAME.error,
  new Uint8Array(Buffer.concat([words(GUEST_ERROR.execNotFound), Buffer.from("no\x1b[2Jsuch")])),
);

function record(): { calls: string[]; protocol: GuestProtocol; handler: GuestHandler } {
  const calls: string[] = [];
  const handler: GuestHandler = {
    hello: (us) => calls.push(`hello ${us}`),
    started: (pid) => calls.push(`started ${pid}`),
    output: (stream, data) => calls.push(`${stream} ${data.length}`),
    exit: (code, signal) => calls.push(`exit ${code} ${signal}`),
    error: (kind, message) => calls.push(`error ${kind} ${message}`),
    log: (line) => calls.push(`log ${line}`),
    broken: () => undefined,
    closed: () => calls.push("closed"),
  };
  return { calls, protocol: new GuestProtocol(handler), handler };
}

test("a run in order reaches the handler in order", () => {
  const { calls, protocol } = record();
  for (const frame of [hello, started, out, exit]) protocol.push(frame);
  expect(calls).toEqual(["hello 5000", "started 77", "stdout 2", "exit 7 0"]);
});

test("an ERROR replaces STARTED; its text is printable", () => {
  const { calls, protocol } = record();
  for (const frame of [hello, failed]) protocol.push(frame);
  expect(calls.at(-1)).toBe(`error ${GUEST_ERROR.execNotFound} no [2Jsuch`);
});

test("every frame out of order, of a wrong size or an unknown type is refused", () => {
  const cases: Uint8Array[][] = [
    [started],
    [out],
    [exit],
    [failed],
    [hello, hello],
    [hello, out],
    [hello, exit],
    [hello, started, started],
    [hello, started, exit, out],
    [hello, started, exit, exit],
    [hello, started, exit, failed],
    [hello, failed, started],
    [encodeFrame(GUEST_FRAME.hello, words(2, 0, 0, 0))],
    [encodeFrame(GUEST_FRAME.hello, words(1))],
    [hello, encodeFrame(GUEST_FRAME.started, words(1, 2))],
    [hello, encodeFrame(GUEST_FRAME.error, new Uint8Array(3))],
    [encodeFrame(99, new Uint8Array(0))],
    [encodeFrame(16, new Uint8Array(0))],
  ];
  for (const frames of cases) {
    const { protocol } = record();
    for (const frame of frames.slice(0, -1)) protocol.push(frame);
    expect(() => protocol.push(frames.at(-1) ?? hello)).toThrow();
  }
});

test("a guest cannot fill the log", () => {
  const { calls, protocol } = record();
  const line = encodeFrame(GUEST_FRAME.log, new Uint8Array(1000).fill(0x61));
  for (let i = 0; i < 1000; i += 1) protocol.push(line);
  expect(calls.length).toBeLessThan(70);
});

test("control characters never pass", () => {
  expect(printable(new TextEncoder().encode("a\u0000\u001b]0;x\u0007b\r\nc\u0085"), 100)).toBe(
    "a ]0;x b c",
  );
  expect(printable(new Uint8Array(1000).fill(0x61), 10)).toHaveLength(10);
});

test("a channel is drained when all that was sent before its close has been handed on", async () => {
  const directory = mkdtempSync(join(tmpdir(), "leveret-channel-"));
  const path = join(directory, "guest.sock");
  const { calls, handler } = record();
  const running = Promise.withResolvers<void>();
  const channel = listenForGuest(path);
  channel.serve({ ...handler, started: () => running.resolve() });
  await channel.drained(); // nobody is there
  const guest = await Bun.connect({ unix: path, socket: { data: () => undefined } });
  guest.write(Buffer.concat([hello, started]));
  await running.promise;
  // In one turn of the loop, so that nothing of it has been read when drained is asked.
  const frames = Buffer.concat(Array<Uint8Array>(2_000).fill(out));
  expect(guest.write(frames)).toBe(frames.length);
  guest.write(exit);
  guest.terminate();
  expect(calls).toEqual(["hello 5000"]);
  await channel.drained();
  expect(calls.filter((call) => call === "stdout 2")).toHaveLength(2_000);
  expect(calls.slice(-2)).toEqual(["exit 7 0", "closed"]);
  channel.close();
  rmSync(directory, { recursive: true });
});
