import { afterEach, expect, test } from "bun:test";
import * as http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { Code, ConnectError } from "@connectrpc/connect";
import { type CallHandlers, GrpcCall } from "./grpc.ts";

const LIMITS = { messageBytes: 1_000, unsentMessages: 4 };

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

type Talk = {
  client: http2.ClientHttp2Stream;
  call: GrpcCall;
  heard: string[];
  closed: Promise<void>;
};

/** A call from a client of our own hand; `heard` is what came up, in order. */
async function talk(options: Partial<CallHandlers> = {}): Promise<Talk> {
  const heard: string[] = [];
  const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>();
  const { promise: accepted, resolve: accept } = Promise.withResolvers<GrpcCall>();
  const server = http2.createServer();
  server.on("stream", (stream: http2.ServerHttp2Stream) => {
    new GrpcCall(stream, "application/grpc", LIMITS, (call) => {
      accept(call);
      return {
        message: (bytes) => void heard.push(Buffer.from(bytes).toString()),
        halfClosed: () => call.end(),
        closed: onClosed,
        ...options,
      };
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const session = http2.connect(`http://127.0.0.1:${port}`);
  session.on("error", () => undefined);
  const client = session.request({ ":method": "POST", ":path": "/x" }, { endStream: false });
  client.on("error", () => undefined);
  cleanups.push(() => {
    session.destroy();
    server.close();
  });
  return { client, call: await accepted, heard, closed };
}

function envelope(text: string, flag = 0): Buffer<ArrayBuffer> {
  const bytes: Buffer<ArrayBuffer> = Buffer.alloc(5 + text.length);
  bytes[0] = flag;
  bytes.writeUInt32BE(text.length, 1);
  bytes.write(text, 5);
  return bytes;
}

async function trailersOf({ client }: Talk): Promise<http2.IncomingHttpHeaders> {
  client.resume();
  return new Promise((resolve) => client.once("trailers", resolve));
}

/** Each write a DATA frame of its own. */
async function writeEach(client: http2.ClientHttp2Stream, bytes: Buffer): Promise<void> {
  for (const byte of bytes)
    await new Promise<void>((resolve) => client.write(Buffer.of(byte), () => resolve()));
}

test("messages are whole however they were cut", async () => {
  const one = await talk();
  await writeEach(one.client, Buffer.concat([envelope("one"), envelope(""), envelope("two")]));
  one.client.end(Buffer.concat([envelope("three"), envelope("four"), envelope("x".repeat(1_000))]));
  expect(await trailersOf(one)).toMatchObject({ "grpc-status": "0" });
  expect(one.heard).toEqual(["one", "", "two", "three", "four", "x".repeat(1_000)]);
  await one.closed;
});

test("a message above the limit and a compressed one end the call with their status", async () => {
  const large = await talk();
  large.client.write(envelope("x".repeat(1_001)));
  expect(await trailersOf(large)).toMatchObject({ "grpc-status": `${Code.ResourceExhausted}` });
  const packed = await talk();
  packed.client.write(envelope("x", 1));
  packed.client.write(envelope("y"));
  expect(await trailersOf(packed)).toMatchObject({ "grpc-status": `${Code.Unimplemented}` });
  expect([...large.heard, ...packed.heard]).toEqual([]);
});

test("what was sent comes before the end, and the end carries the error", async () => {
  const one = await talk();
  const down: Buffer[] = [];
  one.client.on("data", (chunk: Buffer) => down.push(chunk));
  expect(one.call.send(Buffer.from("first"))).toBe(true);
  one.call.end(new ConnectError("no: 100 %", Code.Aborted, { "leveret-reason": "SUPERSEDED" }));
  expect(one.call.send(Buffer.from("late"))).toBe(false);
  expect(await trailersOf(one)).toMatchObject({
    "grpc-status": `${Code.Aborted}`,
    "grpc-message": "no%3A%20100%20%25",
    "leveret-reason": "SUPERSEDED",
  });
  expect(Buffer.concat(down)).toEqual(envelope("first"));
  await one.closed;
});

test("a peer that does not read is noticed by what it leaves unread", async () => {
  const one = await talk();
  one.client.pause();
  const piece = Buffer.alloc(32_768);
  let taken = 0;
  while (taken < 100 && one.call.send(piece)) taken += 1;
  expect(taken).toBeLessThan(100);
  one.call.abort();
  await one.closed;
});

test("a connection that breaks closes the call", async () => {
  const one = await talk({ halfClosed: () => undefined });
  one.client.session?.destroy();
  await one.closed;
});
