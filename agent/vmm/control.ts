/**
 * control.sock: newline-delimited JSON (proto/vmm.ts). Each client gets the status
 * when it connects and at each change. Clients are the supervisor, so requests are
 * checked for shape only; a line or an unread backlog over the limit ends the client.
 * A crash leaves the socket file behind; the next start unlinks it.
 */
import { removeFile } from "../../lib/libc.ts";
import { LIMITS } from "../../lib/limits.ts";
import type { VmmMetrics, VmmPush, VmmReply, VmmRequest, VmmStatus } from "../../proto/vmm.ts";
import { isAction } from "./actions.ts";
import { SocketWriter } from "./socket-writer.ts";

const BACKLOG_LIMIT_BYTES = 256 << 10;
const SIGNAL_MAX = 64;

type Refusal = Omit<Extract<VmmReply, { ok: false }>, "id" | "ok">;

export type ControlHandler = {
  status(): VmmStatus;
  /** Null = done; else why not. */
  request(request: VmmRequest): Refusal | null;
  metrics(): VmmMetrics;
  /** The last client has left. */
  deserted?(): void;
};

export type ControlServer = {
  /** From now on requests are this handler's, those of clients that are there too. */
  serve(handler: ControlHandler): void;
  push(status: VmmStatus): void;
  /** True when every client has been sent all there is for it. */
  idle(): boolean;
  close(): void;
};

/** Null when it is none; `id` is 0 then in the reply. */
export function parseRequest(line: string): VmmRequest | null {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return null; // not JSON: answered as a bad request
  }
  if (typeof value !== "object" || value === null) return null;
  const { id, action, signal, timeoutMs, mib } = value as Record<string, unknown>;
  const isWhole = (it: unknown, max: number): it is number =>
    typeof it === "number" && Number.isSafeInteger(it) && it >= 0 && it <= max;
  if (!isWhole(id, Number.MAX_SAFE_INTEGER) || !isAction(action)) return null;
  switch (action) {
    case "status":
    case "metrics":
    case "boot":
    case "pause":
    case "resume":
    case "reset":
    case "kill":
      return { id, action };
    case "balloon":
      return isWhole(mib, LIMITS.memoryMaxMib) ? { id, action, mib } : null;
    case "shutdown":
      return isWhole(timeoutMs, LIMITS.stopTimeoutMaxMs) ? { id, action, timeoutMs } : null;
    case "signal":
      return isWhole(signal, SIGNAL_MAX) ? { id, action, signal } : null;
    case "stop":
      return isWhole(signal, SIGNAL_MAX) && isWhole(timeoutMs, LIMITS.stopTimeoutMaxMs)
        ? { id, action, signal, timeoutMs }
        : null;
    default: {
      const rest: never = action;
      return rest;
    }
  }
}

class Client {
  readonly #writer: SocketWriter;
  readonly #end: () => void;
  readonly #decoder = new TextDecoder();
  #line = "";

  constructor(socket: { write(data: Uint8Array): number; end(): void }) {
    this.#writer = new SocketWriter(socket, BACKLOG_LIMIT_BYTES);
    this.#end = () => socket.end();
  }

  get idle(): boolean {
    return this.#writer.idle;
  }

  flush(): void {
    this.#writer.flush();
  }

  send(message: VmmReply | VmmPush): void {
    if (!this.#writer.send(new TextEncoder().encode(`${JSON.stringify(message)}\n`))) this.#end();
  }

  data(chunk: Uint8Array, handler: ControlHandler): void {
    this.#line += this.#decoder.decode(chunk, { stream: true });
    const lines = this.#line.split("\n");
    this.#line = lines.pop() ?? "";
    for (const line of lines) if (line.trim() !== "") this.#answer(line, handler);
    if (this.#line.length > LIMITS.controlLineBytes) this.#end();
  }

  #answer(line: string, handler: ControlHandler): void {
    const request = parseRequest(line);
    if (request === null) {
      const message = `This is no request: ${line.slice(0, 80)}`;
      this.send({ id: 0, ok: false, reason: "BAD_REQUEST", message });
      return;
    }
    // The status goes first, so that it is there when the reply is.
    if (request.action === "status") this.send({ status: handler.status() });
    const { id } = request;
    const refusal = handler.request(request);
    if (refusal !== null) this.send({ id, ok: false, ...refusal });
    else if (request.action === "metrics") this.send({ id, ok: true, metrics: handler.metrics() });
    else this.send({ id, ok: true });
  }
}

export function listenForControl(path: string, first: ControlHandler): ControlServer {
  removeFile(path);
  let handler = first;
  const clients = new Set<Client>();
  const listener = Bun.listen<Client>({
    unix: path,
    socket: {
      open(socket) {
        socket.data = new Client(socket);
        clients.add(socket.data);
        socket.data.send({ status: handler.status() });
      },
      data(socket, chunk) {
        socket.data.data(chunk, handler);
      },
      drain(socket) {
        socket.data.flush();
      },
      close(socket) {
        clients.delete(socket.data);
        if (clients.size === 0) handler.deserted?.();
      },
      // A close follows.
      error: () => undefined,
    },
  });
  return {
    serve: (next) => {
      handler = next;
    },
    push: (status) => {
      for (const client of clients) client.send({ status });
    },
    idle: () => [...clients].every((client) => client.idle),
    close: () => {
      listener.stop(true);
      removeFile(path);
    },
  };
}
