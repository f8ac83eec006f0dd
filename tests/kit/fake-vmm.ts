/**
 * A VMM process without a VM: speaks proto/vmm.ts like the real one, and instead of
 * a guest runs one of the fake driver's programs. `bun tests/kit/fake-vmm.ts DIR`.
 * More programs: `crash` (an error line, no status), `mute` (never opens its socket).
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { OUTPUT_STREAM, OutputLogWriter } from "../../lib/output-log.ts";
import {
  VMM_EXIT,
  VMM_FILES,
  type VmmRequest,
  type VmmSpec,
  type VmmStatus,
} from "../../proto/vmm.ts";
import { startTimeOf } from "../../agent/runtime/proc.ts";

const TICK_MS = 2;
const dir = process.argv[2] ?? "";
const spec = JSON.parse(readFileSync(join(dir, VMM_FILES.spec), "utf8")) as VmmSpec;
const [program, ...words] = spec.process.argv;
const clients = new Set<Bun.Socket>();

if (program === "crash") {
  process.stderr.write('noise\n{"reason":"KERNEL_INVALID","message":"It is not a kernel"}\n');
  process.exit(VMM_EXIT.kernelInvalid);
}

let status: VmmStatus = {
  machineId: spec.machineId,
  incarnation: spec.incarnation,
  pid: process.pid,
  pidStartTime: startTimeOf(process.pid) ?? 0,
  phase: "booting",
};

function change(to: Partial<VmmStatus>): void {
  status = { ...status, ...to };
  const path = join(dir, VMM_FILES.status);
  writeFileSync(`${path}.new`, JSON.stringify(status));
  renameSync(`${path}.new`, path);
  for (const client of clients) client.write(`${JSON.stringify({ status })}\n`);
}

function end(last: Partial<VmmStatus>): void {
  if (status.phase === "ended") return;
  output.close();
  change({ ...last, phase: "ended", endedAtMs: Date.now() });
  setTimeout(() => process.exit(VMM_EXIT.ended), 5);
}

function stop(signal: number, timeoutMs: number): void {
  change({ phase: "stopping" });
  const wanted = signal || spec.process.stopSignal;
  if (program !== "stubborn") end({ exitCode: 128 + wanted, exitSignal: wanted });
  else setTimeout(kill, timeoutMs);
}

const kill = (): void => end({ exitCode: 137, exitSignal: 9 });

function handle(request: VmmRequest, socket: Bun.Socket): void {
  socket.write(`${JSON.stringify({ id: request.id, ok: true })}\n`);
  if (request.action === "stop") stop(request.signal, request.timeoutMs);
  if (request.action === "kill") kill();
}

const write = (text: string): void =>
  void output.append(OUTPUT_STREAM.stdout, spec.incarnation, Date.now(), Buffer.from(text));

function count(number: number, until: number): void {
  if (status.phase === "ended") return;
  if (number >= until) return end({ exitCode: 0, exitSignal: 0 });
  write(`line ${number}\n`);
  setTimeout(() => count(number + 1, until), TICK_MS);
}

const output = OutputLogWriter.open(join(dir, VMM_FILES.output), spec.outputLimitBytes);
change({});
process.on("SIGTERM", kill);
if (program !== "mute") {
  const path = join(dir, VMM_FILES.control);
  rmSync(path, { force: true });
  Bun.listen({
    unix: path,
    socket: {
      open(socket) {
        clients.add(socket);
        socket.write(`${JSON.stringify({ status })}\n`);
      },
      data(socket, bytes) {
        for (const line of bytes.toString().trim().split("\n"))
          handle(JSON.parse(line) as VmmRequest, socket);
      },
      close: (socket) => void clients.delete(socket),
    },
  });
}
change({ phase: "running", bootUs: 1_000, startedAtMs: Date.now() });
if (program === "exit") end({ exitCode: Number(words[0]), exitSignal: 0 });
else if (program === "count") count(0, Number(words[0] ?? Number.POSITIVE_INFINITY));
else if (program === "break") end({ reason: "GUEST_FAULT", message: "It broke" });
else if (program === "echo") {
  write(`${words.join(" ")}\n`);
  end({ exitCode: 0, exitSignal: 0 });
} else {
  if (program === "stubborn") write("deaf\n");
  setInterval(() => undefined, 60_000);
}
