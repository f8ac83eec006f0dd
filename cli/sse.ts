/** Server-sent events, as the WHATWG HTML standard, section 9.2.6, cuts them. */
export type ServerEvent = { event: string; id: string | null; data: string };

const EVENT_BYTES_MAX = 8 << 20;

/** Comments and the fields `retry` and unknown are skipped. Throws on an event beyond 8 MiB. */
export async function* serverEvents(
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<ServerEvent> {
  const decoder = new TextDecoder();
  let text = "";
  let current = { event: "message", id: null as string | null, data: [] as string[] };
  for await (const chunk of source) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > EVENT_BYTES_MAX) throw new Error("an event of the server is too long");
    // A CR at the end may be half of a CRLF: it waits for the next chunk.
    const usable = text.endsWith("\r") ? text.length - 1 : text.length;
    const lines = text.slice(0, usable).split(/\r\n|\n|\r/);
    text = (lines.pop() ?? "") + text.slice(usable);
    for (const line of lines) {
      if (line !== "") {
        takeField(line, current);
        continue;
      }
      if (current.data.length > 0)
        yield { event: current.event, id: current.id, data: current.data.join("\n") };
      current = { event: "message", id: null, data: [] };
    }
  }
}

function takeField(
  line: string,
  current: { event: string; id: string | null; data: string[] },
): void {
  const colon = line.indexOf(":");
  if (colon === 0) return;
  const field = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (field === "event") current.event = value;
  else if (field === "id") current.id = value;
  else if (field === "data") current.data.push(value);
}
