import { expect, test } from "bun:test";
import { GUEST_FRAME, HOST_FRAME } from "../../proto/guest.ts";
import { encodeFrame, encodeRun, encodeSignal, FrameParser } from "./frames.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const join = (...parts: Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

/** Whole frames again: parts of one output frame are glued by type. */
function parse(stream: Uint8Array, step: number): [number, string][] {
  const parser = new FrameParser();
  const found: [number, string][] = [];
  for (let at = 0; at < stream.length; at += step)
    for (const { type, payload } of parser.push(stream.subarray(at, at + step))) {
      const last = found.at(-1);
      if (last?.[0] === type && type === GUEST_FRAME.stdout)
        last[1] += Buffer.from(payload).toString();
      else found.push([type, Buffer.from(payload).toString()]);
    }
  return found;
}

test("frames are the same however the stream is cut", () => {
  const stream = join(
    encodeFrame(GUEST_FRAME.log, bytes("hello")),
    encodeFrame(GUEST_FRAME.stdout, bytes("some output")),
    encodeFrame(GUEST_FRAME.stderr, bytes("")),
    encodeFrame(GUEST_FRAME.exit, bytes("12345678")),
    encodeFrame(GUEST_FRAME.log, bytes("")),
  );
  const whole: [number, string][] = [
    [GUEST_FRAME.log, "hello"],
    [GUEST_FRAME.stdout, "some output"],
    [GUEST_FRAME.exit, "12345678"],
    [GUEST_FRAME.log, ""],
  ];
  for (let step = 1; step <= stream.length; step += 1) expect(parse(stream, step)).toEqual(whole);
});

test("a frame over its limit is refused before a byte of it is kept", () => {
  const header = (length: number, type: number, zero = 0): Uint8Array => {
    const view = new DataView(new ArrayBuffer(8));
    view.setUint32(0, length, true);
    view.setUint16(4, type, true);
    view.setUint16(6, zero, true);
    return new Uint8Array(view.buffer);
  };
  const push = (data: Uint8Array): unknown => [...new FrameParser().push(data)];
  expect(() => push(header((1 << 20) + 1, GUEST_FRAME.stdout))).toThrow("1048577 bytes");
  expect(() => push(header(0xffffffff, GUEST_FRAME.log))).toThrow("4294967295 bytes");
  expect(() => push(header(16385, 999))).toThrow("16385 bytes");
  expect(() => push(header(0, GUEST_FRAME.log, 1))).toThrow("malformed");
  expect(push(header(1 << 20, GUEST_FRAME.stdout))).toEqual([]);
});

test("RUN is a list of fields in the documented order", () => {
  const frame = encodeRun({
    argv: ["sh", "-c"],
    env: ["A=b"],
    cwd: "/",
    user: "",
    hostname: "h",
    networks: ["n"],
    resolvConf: "r",
    seed: Uint8Array.of(9),
    clockNs: 258n,
  });
  const hex = [
    `54000000 ${HOST_FRAME.run.toString(16)}00 0000`,
    "0100 0000 02000000 7368",
    "0100 0000 02000000 2d63",
    "0200 0000 03000000 413d62",
    "0300 0000 01000000 2f",
    "0400 0000 00000000",
    "0500 0000 01000000 68",
    "0800 0000 01000000 6e",
    "0900 0000 01000000 72",
    "0600 0000 01000000 09",
    "0700 0000 08000000 0201000000000000",
  ];
  const payload = hex.slice(1).join("").replaceAll(" ", "");
  const length = new DataView(frame.buffer).getUint32(0, true);
  expect(Buffer.from(frame.subarray(8)).toString("hex")).toBe(payload);
  expect(length).toBe(payload.length / 2);
  expect(Buffer.from(encodeSignal(15)).toString("hex")).toBe("04000000110000000f000000");
});
