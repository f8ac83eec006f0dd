import { expect, test } from "bun:test";
import { serverEvents, type ServerEvent } from "./sse.ts";

async function collect(chunks: (string | Uint8Array)[]): Promise<ServerEvent[]> {
  async function* source(): AsyncGenerator<Uint8Array> {
    for (const chunk of chunks)
      yield typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk;
  }
  const events: ServerEvent[] = [];
  for await (const event of serverEvents(source())) events.push(event);
  return events;
}

const TEXT =
  'event: log\r\nid: 7\r\ndata: {"a":"é"}\r\n\r\n: ping\n\ndata: x\ndata:y\n\nevent: end\ndata: \n\n';
const EVENTS = [
  { event: "log", id: "7", data: '{"a":"é"}' },
  { event: "message", id: null, data: "x\ny" },
  { event: "end", id: null, data: "" },
];

test("events, ids, comments and several data lines", async () => {
  expect(await collect([TEXT])).toEqual(EVENTS);
});

test("the stream may be cut anywhere, in a character or a line end too", async () => {
  const raw = new TextEncoder().encode(TEXT);
  for (let cut = 1; cut < raw.length; cut += 1)
    expect(await collect([raw.slice(0, cut), raw.slice(cut)])).toEqual(EVENTS);
});

test("an event that was not finished is not given out", async () => {
  expect(await collect(["event: log\ndata: half\n"])).toEqual([]);
});

test("an endless event is refused", async () => {
  const chunk = "x".repeat(1 << 20);
  expect(await collect(Array.from({ length: 9 }, () => chunk)).catch(String)).toContain("too long");
});
