import { expect, test } from "bun:test";
import { encodeEvent, sseResponse, type SseEvent } from "./sse.ts";

test("an event is id, name, data and an empty line", () => {
  expect(encodeEvent({ event: "log", data: "{}", id: "7" })).toBe(
    "id: 7\nevent: log\ndata: {}\n\n",
  );
  expect(encodeEvent({ event: "end", data: "{}" })).toBe("event: end\ndata: {}\n\n");
});

test("an idle stream carries comments and loses no event to them", async () => {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  async function* source(): AsyncGenerator<SseEvent> {
    await held;
    yield { event: "log", data: "1" };
  }
  const response = sseResponse(source(), { onCancel: () => undefined, requestId: "r", pingMs: 1 });
  const reader = response.body?.getReader();
  let text = "";
  for (let n = 0; n < 1_000 && !text.includes(": ping"); n += 1)
    text += new TextDecoder().decode((await reader?.read())?.value);
  expect(text).toContain(": ping\n\n");
  release();
  for (let n = 0; n < 1_000; n += 1) {
    const next = await reader?.read();
    if (next === undefined || next.done) break;
    text += new TextDecoder().decode(next.value);
  }
  expect(text).toEndWith("event: log\ndata: 1\n\n");
});

test("a client that goes away ends the source", async () => {
  let ended = false;
  let release: () => void = () => undefined;
  async function* source(): AsyncGenerator<SseEvent> {
    try {
      yield { event: "log", data: "1" };
      await new Promise<void>((resolve) => (release = resolve));
    } finally {
      ended = true;
    }
  }
  const response = sseResponse(source(), { onCancel: () => release(), requestId: "r" });
  const reader = response.body?.getReader();
  await reader?.read();
  await reader?.cancel();
  expect(ended).toBe(true);
});
