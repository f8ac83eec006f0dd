/**
 * The VMM's end of the channel to init: listens on vsock.sock_1024, where the shim
 * connects for the guest, and hands checked messages to the run.
 *
 * One connection counts, the first. Order is enforced: HELLO first; STARTED once;
 * output after STARTED; EXIT or ERROR ends what may come. Anything else closes the
 * channel and is reported once as `broken`. All on the main thread; a crash leaves
 * the socket file behind, which the next start unlinks.
 */
import { removeFile } from "../../lib/libc.ts";
import { GUEST_FRAME, GUEST_PORT, GUEST_PROTOCOL } from "../../proto/guest.ts";
import { VMM_FILES } from "../../proto/vmm.ts";
import { FrameParser } from "./frames.ts";
import { errorText } from "./errors.ts";
import { SocketWriter } from "./socket-writer.ts";

export const GUEST_SOCKET = `${VMM_FILES.vsock}_${GUEST_PORT}`;

const SEND_LIMIT_BYTES = 2 << 20;
/** Of init's own log lines, over the whole run. */
const LOG_BUDGET_BYTES = 64 << 10;

export type GuestHandler = {
  hello(bootMicroseconds: number): void;
  started(pid: number): void;
  /** The bytes are only valid during the call. */
  output(stream: "stdout" | "stderr", data: Uint8Array): void;
  exit(code: number, signal: number): void;
  /** kind is a GUEST_ERROR or unknown. */
  error(kind: number, message: string): void;
  log(line: string): void;
  /** The guest broke the protocol; the channel is closed. */
  broken(what: string): void;
  closed(): void;
};

type Stage = "hello" | "run" | "output" | "over";

/** Text of the guest for people: control characters (a terminal would obey them) become spaces. */
export function printable(bytes: Uint8Array, maxLength: number): string {
  const text = new TextDecoder().decode(bytes.subarray(0, maxLength * 4));
  return text
    .replaceAll(/\p{Cc}+/gu, " ")
    .trim()
    .slice(0, maxLength);
}

/** Turns chunks of the stream into calls of the handler. Throws on a broken protocol. */
export class GuestProtocol {
  readonly #handler: GuestHandler;
  readonly #parser = new FrameParser();
  #stage: Stage = "hello";
  #logBudget = LOG_BUDGET_BYTES;

  constructor(handler: GuestHandler) {
    this.#handler = handler;
  }

  push(chunk: Uint8Array): void {
    for (const { type, payload } of this.#parser.push(chunk)) this.#frame(type, payload);
  }

  #frame(type: number, payload: Uint8Array): void {
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    switch (type) {
      case GUEST_FRAME.hello: {
        this.#expect("hello", payload, 16, "HELLO");
        const protocol = view.getUint32(0, true);
        if (protocol !== GUEST_PROTOCOL)
          throw new Error(`init speaks protocol ${protocol}, not ${GUEST_PROTOCOL}`);
        this.#stage = "run";
        return this.#handler.hello(Number(view.getBigUint64(8, true)));
      }
      case GUEST_FRAME.started:
        this.#expect("run", payload, 4, "STARTED");
        this.#stage = "output";
        return this.#handler.started(view.getUint32(0, true));
      case GUEST_FRAME.stdout:
      case GUEST_FRAME.stderr:
        if (this.#stage !== "output") throw new Error("output came before STARTED or after EXIT");
        return this.#handler.output(type === GUEST_FRAME.stdout ? "stdout" : "stderr", payload);
      case GUEST_FRAME.exit:
        this.#expect("output", payload, 8, "EXIT");
        this.#stage = "over";
        return this.#handler.exit(view.getInt32(0, true), view.getInt32(4, true));
      case GUEST_FRAME.error:
        if (this.#stage === "hello" || this.#stage === "over" || payload.length < 4)
          throw new Error("an ERROR frame came out of order or was too short");
        this.#stage = "over";
        return this.#handler.error(view.getUint32(0, true), printable(payload.subarray(4), 1_000));
      case GUEST_FRAME.log:
        return this.#log(payload);
      default:
        throw new Error(`a frame has the unknown type ${type}`);
    }
  }

  #expect(stage: Stage, payload: Uint8Array, bytes: number, name: string): void {
    if (this.#stage !== stage) throw new Error(`${name} came out of order`);
    if (payload.length !== bytes) throw new Error(`${name} has ${payload.length} bytes`);
  }

  #log(payload: Uint8Array): void {
    if (this.#logBudget <= 0) return;
    this.#logBudget -= payload.length + 16;
    this.#handler.log(printable(payload, 1_000));
  }
}

export type GuestChannel = {
  /** Who is told. A connection that comes before is refused. */
  serve(handler: GuestHandler): void;
  /** False when there is no guest or it does not read. */
  send(frame: Uint8Array): boolean;
  /** Once the VM has stopped: resolves when all that its guest sent has been handed on. */
  drained(): Promise<void>;
  close(): void;
};

type Connection = { protocol: GuestProtocol; writer: SocketWriter };

export function listenForGuest(path: string): GuestChannel {
  // A stale one makes listen fail with EADDRINUSE.
  removeFile(path);
  let handler: GuestHandler | null = null;
  let active: Connection | null = null;
  let taken = false;
  let over = false;
  const gone = Promise.withResolvers<void>();
  // A second connection keeps the undefined data that Bun begins with.
  const listener = Bun.listen<Connection | undefined>({
    unix: path,
    socket: {
      open(socket) {
        if (taken || handler === null) return void socket.end();
        taken = true;
        active = {
          protocol: new GuestProtocol(handler),
          writer: new SocketWriter(socket, SEND_LIMIT_BYTES),
        };
        socket.data = active;
      },
      data(socket, chunk) {
        if (over || socket.data === undefined || socket.data !== active) return;
        try {
          socket.data.protocol.push(chunk);
        } catch (error) {
          active = null;
          over = true;
          socket.end();
          handler?.broken(errorText(error));
        }
      },
      drain(socket) {
        socket.data?.writer.flush();
      },
      close(socket) {
        if (socket.data === undefined) return;
        gone.resolve();
        if (over) return;
        active = null;
        over = true;
        handler?.closed();
      },
      // A close follows.
      error: () => undefined,
    },
  });
  return {
    serve: (next) => {
      handler = next;
    },
    send: (frame) => active?.writer.send(frame) ?? false,
    drained: () => (active === null ? Promise.resolve() : gone.promise),
    close: () => {
      over = true;
      listener.stop(true);
      removeFile(path);
    },
  };
}
