/**
 * gRPC over HTTP/2 with next to nothing around it, for clients by the thousand: what is
 * measured is the server, and a client that shares its CPUs must not be what is slow.
 * One plain connection, one stream on it, messages both ways. Frames are RFC 9113's;
 * of HPACK it writes literals, and it skips the headers it is sent.
 */
import type { Socket } from "bun";

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const FRAME = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, goaway: 7, window: 8 };
const ACK = 1;
const END_STREAM = 1;
const END_HEADERS = 4;
const INITIAL_WINDOW = 65_535;
const SETTING_INITIAL_WINDOW = 4;
/** What we let the server send before it hears of us again; given back by halves. */
const OUR_WINDOW = 1 << 20;

export type StreamHandlers = {
  /** A whole message; the bytes are the handler's. */
  message(bytes: Uint8Array): void;
  /** Once, whoever ended it. */
  closed(): void;
};

function frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.allocUnsafe(9 + payload.length);
  bytes.writeUIntBE(payload.length, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(stream, 5);
  bytes.set(payload, 9);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A literal without indexing (RFC 7541 §6.2.2): of a name in the static table, or a new one. */
function literal(name: number | string, value: string): Buffer {
  const head =
    typeof name === "string"
      ? [0, name.length, ...Buffer.from(name)]
      : name < 15
        ? [name]
        : [15, name - 15];
  return Buffer.from([...head, value.length, ...Buffer.from(value)]);
}

/** Everything that a call begins with, in one write. */
function opening(authority: string, path: string): Buffer {
  const window = Buffer.concat([Buffer.from([0, SETTING_INITIAL_WINDOW]), uint32(OUR_WINDOW)]);
  const headers = Buffer.concat([
    Buffer.from([0x83, 0x86]), // :method POST, :scheme http
    literal(4, path),
    literal(1, authority),
    literal(31, "application/grpc+proto"),
    literal("te", "trailers"),
  ]);
  return Buffer.concat([
    PREFACE,
    frame(FRAME.settings, 0, 0, window),
    frame(FRAME.window, 0, 0, uint32(OUR_WINDOW - INITIAL_WINDOW)),
    frame(FRAME.headers, END_HEADERS, 1, headers),
  ]);
}

/** The message in gRPC's envelope in one DATA frame; may be made once and sent often. */
export function dataFrame(message: Uint8Array): Buffer {
  const envelope = Buffer.alloc(5 + message.length);
  envelope.writeUInt32BE(message.length, 1);
  envelope.set(message, 5);
  return frame(FRAME.data, 0, 1, envelope);
}

export class GrpcStream {
  readonly #handlers: StreamHandlers;
  #socket: Socket<GrpcStream> | undefined;
  #closed = false;
  #reading = false;
  /** Not a whole frame yet. */
  #rest: Buffer | undefined;
  /** Of DATA, not a whole message yet. */
  #body: Buffer | undefined;
  /** Waits for the socket or for the server's window. */
  #unsent: Buffer[] = [];
  /** The part of a write that the kernel did not take. */
  #stuck: Buffer | undefined;
  #connectionWindow = INITIAL_WINDOW;
  #streamWindow = INITIAL_WINDOW;
  #serverInitial = INITIAL_WINDOW;
  #unacknowledged = 0;

  private constructor(handlers: StreamHandlers) {
    this.#handlers = handlers;
  }

  /** Resolves when the connection stands; throws when it cannot be made. */
  static async open(
    at: { hostname: string; port: number; path: string },
    handlers: StreamHandlers,
  ): Promise<GrpcStream> {
    const stream = new GrpcStream(handlers);
    const socket = await Bun.connect<GrpcStream>({
      hostname: at.hostname,
      port: at.port,
      data: stream,
      socket: SOCKET,
    });
    socket.setNoDelay(true);
    stream.#socket = socket;
    stream.#write(opening(`${at.hostname}:${at.port}`, at.path));
    return stream;
  }

  /** Takes what dataFrame makes. */
  send(data: Buffer): void {
    if (this.#closed) return;
    this.#unsent.push(data);
    this.flush();
  }

  close(): void {
    this.#socket?.end();
    this.ended();
  }

  ended(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unsent = [];
    this.#handlers.closed();
  }

  flush(): void {
    if (this.#stuck !== undefined) {
      const stuck = this.#stuck;
      this.#stuck = undefined;
      this.#write(stuck);
    }
    if (this.#stuck !== undefined || this.#reading) return;
    const allowed: Buffer[] = [];
    for (let next = this.#unsent[0]; next !== undefined; next = this.#unsent[0]) {
      const bytes = next.length - 9;
      if (bytes > this.#connectionWindow || bytes > this.#streamWindow) break;
      this.#unsent.shift();
      this.#connectionWindow -= bytes;
      this.#streamWindow -= bytes;
      allowed.push(next);
    }
    const [only] = allowed;
    if (only !== undefined) this.#write(allowed.length === 1 ? only : Buffer.concat(allowed));
  }

  #write(bytes: Buffer): void {
    if (this.#stuck !== undefined) {
      this.#stuck = Buffer.concat([this.#stuck, bytes]);
      return;
    }
    const written = this.#socket?.write(bytes) ?? -1;
    if (written >= 0 && written < bytes.length) this.#stuck = bytes.subarray(written);
  }

  /** What is answered to it goes as one write. */
  received(chunk: Buffer): void {
    this.#reading = true;
    this.#parse(chunk);
    this.#reading = false;
    this.flush();
  }

  #parse(chunk: Buffer): void {
    let bytes = this.#rest === undefined ? chunk : Buffer.concat([this.#rest, chunk]);
    while (bytes.length >= 9) {
      const end = 9 + bytes.readUIntBE(0, 3);
      if (bytes.length < end) break;
      this.#frame(bytes[3] ?? 0, bytes[4] ?? 0, bytes.readUInt32BE(5), bytes.subarray(9, end));
      if (this.#closed) return;
      bytes = bytes.subarray(end);
    }
    // Copied: the socket's buffer is used again.
    this.#rest = bytes.length === 0 ? undefined : Buffer.from(bytes);
  }

  #frame(type: number, flags: number, stream: number, payload: Buffer): void {
    switch (type) {
      case FRAME.data:
        this.#data(payload);
        break;
      case FRAME.settings:
        if ((flags & ACK) === 0) this.#settings(payload);
        break;
      case FRAME.ping:
        if ((flags & ACK) === 0) this.#write(frame(FRAME.ping, ACK, 0, payload));
        break;
      case FRAME.window:
        if (stream === 0) this.#connectionWindow += payload.readUInt32BE(0);
        else this.#streamWindow += payload.readUInt32BE(0);
        this.flush();
        break;
      case FRAME.reset:
      case FRAME.goaway:
        this.close();
        break;
      default:
    }
    const ends = type === FRAME.data || type === FRAME.headers;
    if (ends && (flags & END_STREAM) !== 0) this.close();
  }

  #settings(payload: Buffer): void {
    for (let at = 0; at + 6 <= payload.length; at += 6) {
      if (payload.readUInt16BE(at) !== SETTING_INITIAL_WINDOW) continue;
      const initial = payload.readUInt32BE(at + 2);
      this.#streamWindow += initial - this.#serverInitial;
      this.#serverInitial = initial;
    }
    this.#write(frame(FRAME.settings, ACK, 0, Buffer.alloc(0)));
    this.flush();
  }

  #data(payload: Buffer): void {
    this.#unacknowledged += payload.length;
    if (this.#unacknowledged >= OUR_WINDOW / 2) {
      const more = uint32(this.#unacknowledged);
      this.#unacknowledged = 0;
      this.#write(frame(FRAME.window, 0, 0, more));
      this.#write(frame(FRAME.window, 0, 1, more));
    }
    let bytes = this.#body === undefined ? payload : Buffer.concat([this.#body, payload]);
    while (bytes.length >= 5) {
      const end = 5 + bytes.readUInt32BE(1);
      if (bytes.length < end) break;
      this.#handlers.message(new Uint8Array(bytes.subarray(5, end)));
      bytes = bytes.subarray(end);
    }
    this.#body = bytes.length === 0 ? undefined : Buffer.from(bytes);
  }
}

/** One set of handlers for all sockets. */
const SOCKET = {
  data: (socket: Socket<GrpcStream>, chunk: Buffer): void => socket.data.received(chunk),
  drain: (socket: Socket<GrpcStream>): void => socket.data.flush(),
  close: (socket: Socket<GrpcStream>): void => socket.data.ended(),
  error: (socket: Socket<GrpcStream>): void => socket.data.ended(),
};
