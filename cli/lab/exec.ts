/** lev's end of a command in the lab; protocol.ts draws who calls whom. */
import { randomBytes } from "node:crypto";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { join } from "node:path";
import { LvError } from "../../proto/errors.ts";
import { decodeFrames, EXEC_FRAME, type ExecRequest } from "./protocol.ts";
import { LAB_FILES } from "./qemu.ts";
import type { LabState } from "./state.ts";

export type ExecOptions = {
  argv: string[];
  env?: Record<string, string>;
  cwd?: string;
  /** Called in order; the bytes are valid during the call only. */
  onOutput?: (stream: "stdout" | "stderr", bytes: Uint8Array) => void;
  signal?: AbortSignal;
};

/** The first command of a lab reads its runtime from this machine's disk, by emulated steps. */
const DIAL_TIMEOUT_MS = 120_000;

/**
 * An emulated processor that sleeps misses the interrupt of its timer now and then, more
 * often when it runs guests of its own (QEMU 7.2), and sleeps on for minutes, until any
 * other comes: one of the network's, while somebody waits for a command.
 */
const WAKE_EVERY_MS = 200;

/** Runs a command to its end and returns its exit code (128 + signal when it was killed). */
export async function execInLab(lab: LabState, options: ExecOptions): Promise<number> {
  const request = { argv: options.argv, env: options.env ?? {}, cwd: options.cwd ?? null };
  await using call = await dial(lab, { ...request, detachTo: null }, options.signal);
  // The server reads on and has no use for it.
  using _wakes = every(WAKE_EVERY_MS, () => call.socket.write("\n"));
  for await (const frame of decodeFrames(call.socket)) {
    if (frame.type === EXEC_FRAME.stdout) options.onOutput?.("stdout", frame.payload);
    else if (frame.type === EXEC_FRAME.stderr) options.onOutput?.("stderr", frame.payload);
    else if (frame.type === EXEC_FRAME.exit) return frame.payload.readInt32LE(0);
    else throw failed(options.argv, frame.payload);
  }
  throw new LvError("LINK_LOST", `The lab went away while \`${options.argv.join(" ")}\` ran`);
}

/** Starts a command that outlives this process, its output in `logPath` in the lab. Returns its pid there. */
export async function startInLab(
  lab: LabState,
  options: { argv: string[]; env?: Record<string, string>; cwd?: string; logPath: string },
): Promise<number> {
  const request = { argv: options.argv, env: options.env ?? {}, cwd: options.cwd ?? null };
  await using call = await dial(lab, { ...request, detachTo: options.logPath }, undefined);
  for await (const frame of decodeFrames(call.socket)) {
    if (frame.type === EXEC_FRAME.pid) return frame.payload.readUInt32LE(0);
    throw failed(options.argv, frame.payload);
  }
  throw new LvError("LINK_LOST", `The lab went away before \`${options.argv.join(" ")}\` started`);
}

/** As execInLab, with the output collected. */
export async function captureInLab(
  lab: LabState,
  argv: string[],
  env: Record<string, string> = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const chunks = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  const code = await execInLab(lab, {
    argv,
    env,
    onOutput: (stream, bytes) => void chunks[stream].push(Buffer.from(bytes)),
  });
  return {
    code,
    stdout: Buffer.concat(chunks.stdout).toString("utf8"),
    stderr: Buffer.concat(chunks.stderr).toString("utf8"),
  };
}

function failed(argv: string[], payload: Buffer): LvError {
  return new LvError(
    "EXEC_FAILED",
    `The lab cannot run \`${argv.join(" ")}\`: ${payload.toString("utf8").slice(0, 500)}`,
  );
}

function every(ms: number, work: () => void): Disposable {
  const timer = setInterval(work, ms);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

type Call = AsyncDisposable & { socket: Socket };

async function dial(
  lab: LabState,
  request: ExecRequest,
  signal: AbortSignal | undefined,
): Promise<Call> {
  const token = randomBytes(16).toString("hex");
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;
  // Held until the lab has dialled: QEMU may drop unread bytes of a client that left.
  const line = connect(join(lab.runDir, LAB_FILES.exec), () => line.write(`${port} ${token}\n`));
  const deadline = AbortSignal.timeout(DIAL_TIMEOUT_MS);
  const stop = signal ? AbortSignal.any([signal, deadline]) : deadline;
  try {
    const socket = await accept(server, line, token, stop);
    const onAbort = (): void => void socket.destroy();
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.write(`${JSON.stringify(request)}\n`);
    return {
      socket,
      [Symbol.asyncDispose]: async () => {
        signal?.removeEventListener("abort", onAbort);
        socket.destroy();
        await Promise.resolve();
      },
    };
  } finally {
    line.destroy();
    server.close();
  }
}

/** The first connection that knows the token. */
function accept(
  server: ReturnType<typeof createServer>,
  line: Socket,
  token: string,
  stop: AbortSignal,
): Promise<Socket> {
  return new Promise<Socket>((resolve, reject) => {
    line.once("error", () =>
      reject(new LvError("LINK_LOST", "The lab does not answer: ./lev lab status says more")),
    );
    stop.addEventListener("abort", () =>
      reject(new LvError("TIMEOUT", "The lab did not answer a command within its time")),
    );
    server.on("connection", (socket) => {
      let text = "";
      const onData = (chunk: Buffer): void => {
        text += chunk.toString("latin1");
        if (text.length <= token.length) return;
        socket.off("data", onData);
        socket.pause();
        if (text === `${token}\n`) resolve(socket);
        else socket.destroy();
      };
      socket.on("error", () => socket.destroy());
      socket.on("data", onData);
    });
  });
}
