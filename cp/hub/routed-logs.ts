/**
 * A host's log sessions from any replica: its own hub where the stream ends here, else
 * the owner's, asked over HTTP. One line of JSON per piece; the last line says how the
 * session ended, so that a connection that broke is told from a session that is over.
 */
import { z } from "zod";
import { LvError, isReason } from "../../proto/errors.ts";
import type { LogPiece, LogSource } from "../ops/follow-logs.ts";
import type { Owners } from "./owners.ts";

export const LOGS_PATH = "/internal/logs";

export const LogQuery = z.object({
  host: z.string().min(1).max(64),
  machine: z.string().min(1).max(64),
  after: z.coerce.number().int().min(0),
  follow: z.enum(["0", "1"]),
});

const Piece = z.object({
  sequence: z.number(),
  timeMs: z.number(),
  stream: z.enum(["stdout", "stderr", "system"]),
  data: z.string(),
  incarnation: z.number(),
});
const Line = z.union([
  z.object({ piece: Piece }),
  z.object({ end: z.object({ reason: z.string(), message: z.string() }) }),
]);

type Request = Parameters<LogSource["openLogs"]>[1];

export class RoutedLogs implements LogSource {
  readonly #owners: Owners;
  readonly #local: LogSource;

  constructor(owners: Owners, local: LogSource) {
    this.#owners = owners;
    this.#local = local;
  }

  async *openLogs(hostId: string, request: Request, signal: AbortSignal): AsyncGenerator<LogPiece> {
    const url = await this.#owners.elsewhere(hostId);
    if (url === null) yield* this.#local.openLogs(hostId, request, signal);
    else yield* this.#ask(url, hostId, request, signal);
  }

  async *#ask(
    url: string,
    hostId: string,
    { machineId, after, follow }: Request,
    signal: AbortSignal,
  ): AsyncGenerator<LogPiece> {
    const query = new URLSearchParams({
      host: hostId,
      machine: machineId,
      after: String(after),
      follow: follow ? "1" : "0",
    });
    try {
      const response = await fetch(`${url}${LOGS_PATH}?${query.toString()}`, {
        headers: { authorization: `Bearer ${this.#owners.secret}` },
        signal,
      });
      if (!response.ok || response.body === null)
        throw new LvError("LINK_LOST", `The host's replica answered ${response.status}`);
      for await (const text of lines(response.body)) {
        const line = Line.parse(JSON.parse(text));
        if ("piece" in line) {
          yield { ...line.piece, data: Buffer.from(line.piece.data, "base64") };
          continue;
        }
        const { reason, message } = line.end;
        if (reason === "") return;
        throw new LvError(isReason(reason) ? reason : "INTERNAL", message);
      }
    } catch (error) {
      if (error instanceof LvError) throw error;
      if (signal.aborted) throw new LvError("CANCELLED", "The reader went away");
      throw new LvError("LINK_LOST", "The host's replica does not answer", { cause: error });
    }
    throw new LvError("LINK_LOST", "The host's replica broke off");
  }
}

async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of body) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
}

/** The other side of `#ask`: never throws, says how it ended. */
export async function* logLines(
  local: LogSource,
  query: z.infer<typeof LogQuery>,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const { host, machine, after, follow } = query;
  const request = { machineId: machine, after, follow: follow === "1" };
  let end = { reason: "", message: "" };
  try {
    for await (const { data, ...piece } of local.openLogs(host, request, signal))
      yield `${JSON.stringify({ piece: { ...piece, data: Buffer.from(data).toString("base64") } })}\n`;
  } catch (error) {
    const { reason, message } = LvError.from(error);
    end = { reason, message };
  }
  yield `${JSON.stringify({ end })}\n`;
}
