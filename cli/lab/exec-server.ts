/**
 * The lab's end of `lev lab exec` (protocol.ts). Runs inside the lab under
 * busybox init; argv: the loopback port outside that waits for "ready", and the
 * checkout. Imports nothing outside this folder: it is on the boot path of an
 * emulated machine.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createReadStream, openSync, readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { encodeFrame, encodeInt, EXEC_FRAME, OUTSIDE, type ExecRequest } from "./protocol.ts";

const SIGNALS: Record<string, number> = { SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 };

async function main(): Promise<void> {
  const [ready = "", checkout = "/"] = process.argv.slice(2);
  announce(Number(ready));
  const lines = createInterface({ input: createReadStream("/dev/ttyS1") });
  for await (const line of lines) {
    const request = /^(\d+) ([0-9a-f]+)$/.exec(line.trim());
    if (request) serve(Number(request[1]), request[2] ?? "", checkout);
  }
}

/** Nobody listens there any more when the server was restarted: that is fine. */
function announce(port: number): void {
  const socket = connect(port, OUTSIDE, () => {
    const [uptime = ""] = readFileSync("/proc/uptime", "utf8").split(" ");
    socket.end(`ready ${uptime}\n`);
  });
  socket.on("error", () => socket.destroy());
}

function serve(port: number, token: string, checkout: string): void {
  const socket = connect(port, OUTSIDE, () => {
    socket.write(`${token}\n`);
  });
  socket.on("error", () => socket.destroy());
  let text = "";
  const onData = (chunk: Buffer): void => {
    text += chunk.toString("utf8");
    const end = text.indexOf("\n");
    if (end < 0) return;
    socket.off("data", onData);
    socket.resume();
    const request = JSON.parse(text.slice(0, end)) as ExecRequest;
    run(socket, request, checkout).catch((thrown: unknown) => {
      const message = thrown instanceof Error ? thrown.message : String(thrown);
      socket.end(encodeFrame(EXEC_FRAME.error, Buffer.from(message)));
    });
  };
  socket.on("data", onData);
}

async function run(socket: Socket, request: ExecRequest, checkout: string): Promise<void> {
  const log = request.detachTo === null ? null : openSync(request.detachTo, "a");
  const child = spawn(request.argv[0] ?? "", request.argv.slice(1), {
    cwd: request.cwd ?? checkout,
    env: { ...process.env, ...request.env },
    detached: true,
    stdio: ["ignore", log ?? "pipe", log ?? "pipe"],
  });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", () => resolve());
    child.once("error", reject);
  });
  if (log !== null) {
    child.unref();
    socket.end(encodeFrame(EXEC_FRAME.pid, encodeInt(child.pid ?? 0)));
    return;
  }
  socket.once("close", () => killGroup(child));
  const exited = new Promise<number>((resolve) => {
    child.once("exit", (code, signal) => resolve(code ?? 128 + (SIGNALS[signal ?? ""] ?? 0)));
  });
  await Promise.all([
    pump(socket, EXEC_FRAME.stdout, child.stdout),
    pump(socket, EXEC_FRAME.stderr, child.stderr),
  ]);
  socket.end(encodeFrame(EXEC_FRAME.exit, encodeInt(await exited)));
}

async function pump(
  socket: Socket,
  type: number,
  source: AsyncIterable<Buffer> | null,
): Promise<void> {
  if (source === null) return;
  for await (const chunk of source) {
    if (socket.destroyed) return;
    if (!socket.write(encodeFrame(type, chunk)))
      await new Promise<void>((resolve) => {
        socket.once("drain", resolve);
        socket.once("close", resolve);
      });
  }
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // It ended between the check and the signal.
  }
}

await main();
