/**
 * A host without KVM, for tests of everything above the driver. A run is a small
 * program chosen by argv[0]; its output goes to a real output log. The object is the
 * host: hand the same one to the next agent, and its runs are found there.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../lib/limits.ts";
import { OUTPUT_STREAM, OutputLogWriter } from "../../lib/output-log.ts";
import { LvError, isReason } from "../../proto/errors.ts";
import { MachineId } from "../../proto/ids.ts";
import type { VmmStatus } from "../../proto/vmm.ts";
import type { RunMetrics } from "./metrics.ts";
import type { Driver, Found, MachineRun, RunRequest } from "./driver.ts";

const TICK_MS = 5;
const SIGTERM = 15;
const SIGKILL = 9;

export type FakeDriverOptions = {
  dir: string;
  /** Awaited before a run's process exists; a rejection fails the start. */
  beforeStart?: (request: RunRequest) => Promise<void>;
  /** Awaited while the run is "booting". */
  boot?: (request: RunRequest) => Promise<void>;
  /** The host's clock, unix milliseconds. */
  now?: () => number;
};

/**
 * Programs: `exit N`; `echo WORDS…`; `count [N]` (a line per tick, for good or N
 * times); `stubborn` (says `deaf`, ignores its stop signal); `break REASON` (the guest fails);
 * anything else runs until it is stopped.
 */
export class FakeRun implements MachineRun {
  readonly incarnation: number;
  readonly ended: Promise<VmmStatus>;
  readonly #request: RunRequest;
  readonly #output: OutputLogWriter;
  readonly #end = Promise.withResolvers<VmmStatus>();
  readonly #listeners = new Set<(status: VmmStatus) => void>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #now: () => number;
  #status: VmmStatus;

  constructor(request: RunRequest, outputPath: string, boot: Promise<void>, now = Date.now) {
    this.#request = request;
    this.#now = now;
    this.incarnation = request.incarnation;
    this.ended = this.#end.promise;
    this.#output = OutputLogWriter.open(outputPath, LIMITS.outputLogBytes);
    const { machineId, incarnation } = request;
    this.#status = { machineId, incarnation, pid: 0, pidStartTime: 0, phase: "booting" };
    void boot.then(
      () => this.#begin(),
      (error: unknown) => {
        const { reason, message } = LvError.from(error);
        this.finish({ reason, message });
      },
    );
  }

  get status(): VmmStatus {
    return this.#status;
  }

  subscribe(listener: (status: VmmStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  stop(signal: number, timeoutMs: number): Promise<void> {
    if (this.#status.phase === "ended") return Promise.resolve();
    if (this.#status.phase === "booting") return this.kill();
    this.#change({ phase: "stopping" });
    if (this.#request.process.argv[0] === "stubborn")
      this.#later(timeoutMs, () => void this.kill());
    else this.#finishBySignal(signal === 0 ? this.#request.process.stopSignal : signal);
    return Promise.resolve();
  }

  metrics(): Promise<RunMetrics> {
    const { cpus, memoryMib } = this.#request;
    const none = { notifies: 0, interrupts: 0, bytesOut: 0, throttled: 0, malformed: 0 };
    const blk = { kind: "blk", ...none, requests: 3, bytesIn: 4_096, dropped: 0, errors: 0 };
    return Promise.resolve({
      vcpus: Array.from({ length: cpus }, (_, i) => ({
        exitsPio: 0,
        exitsMmio: i + 1,
        exitsIntr: 0,
        exitsOther: 0,
      })),
      devices: [blk, { ...blk, requests: 0, bytesIn: 0 }],
      cpuUs: 1_000,
      residentBytes: memoryMib * 2 ** 20,
    });
  }

  async kill(): Promise<void> {
    this.#finishBySignal(SIGKILL);
    await this.ended;
  }

  /** Ends the run as a guest or a VMM would. */
  finish(last: Partial<VmmStatus>): void {
    if (this.#status.phase === "ended") return;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#output.close();
    this.#status = { ...this.#status, ...last, phase: "ended", endedAtMs: this.#now() };
    this.#end.resolve(this.#status);
  }

  write(text: string, stream: number = OUTPUT_STREAM.stdout): void {
    this.#output.append(stream, this.incarnation, this.#now(), Buffer.from(text));
  }

  #finishBySignal(signal: number): void {
    this.finish({ exitCode: 128 + (signal || SIGTERM), exitSignal: signal || SIGTERM });
  }

  #later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }

  #change(change: Partial<VmmStatus>): void {
    this.#status = { ...this.#status, ...change };
    for (const listener of this.#listeners) listener(this.#status);
  }

  #begin(): void {
    if (this.#status.phase !== "booting") return;
    this.#change({ phase: "running", bootUs: 1_000, startedAtMs: this.#now() });
    const [program, ...words] = this.#request.process.argv;
    if (program === "exit") this.finish({ exitCode: Number(words[0] ?? 0), exitSignal: 0 });
    else if (program === "stubborn") this.write("deaf\n");
    else if (program === "count") this.#count(0, Number(words[0] ?? Number.POSITIVE_INFINITY));
    else if (program === "break") {
      const reason = words[0] ?? "";
      this.finish({ reason: isReason(reason) ? reason : "GUEST_FAULT", message: "It broke" });
    } else if (program === "echo") {
      this.write(`${words.join(" ")}\n`);
      this.finish({ exitCode: 0, exitSignal: 0 });
    }
  }

  #count(number: number, until: number): void {
    if (number >= until) return this.finish({ exitCode: 0, exitSignal: 0 });
    this.write(`line ${number}\n`);
    this.#later(TICK_MS, () => this.#count(number + 1, until));
  }
}

export class FakeDriver implements Driver {
  readonly #options: FakeDriverOptions;
  readonly #runs = new Map<string, FakeRun>();
  readonly #lasts = new Map<string, VmmStatus>();
  /** Every run ever begun, for tests that count. */
  readonly begun: RunRequest[] = [];

  constructor(options: FakeDriverOptions) {
    this.#options = options;
  }

  /** The living run of a machine. */
  run(machineId: string): FakeRun | undefined {
    return this.#runs.get(machineId);
  }

  get running(): number {
    return this.#runs.size;
  }

  async start(request: RunRequest, signal: AbortSignal): Promise<MachineRun> {
    await this.#options.beforeStart?.(request);
    signal.throwIfAborted();
    const { machineId } = request;
    if (this.#runs.has(machineId))
      throw new LvError("INTERNAL", `A second run of ${machineId} was begun beside the first`);
    mkdirSync(join(this.#options.dir, machineId), { recursive: true });
    this.begun.push(request);
    const boot = this.#options.boot?.(request) ?? Promise.resolve();
    const run = new FakeRun(request, this.outputPath(machineId), boot, this.#options.now);
    this.#runs.set(machineId, run);
    void run.ended.then((last) => {
      this.#runs.delete(machineId);
      this.#lasts.set(machineId, last);
    });
    return run;
  }

  find(): Promise<Found[]> {
    const { dir } = this.#options;
    const ids = existsSync(dir) ? readdirSync(dir).filter((name) => MachineId.is(name)) : [];
    return Promise.resolve(
      ids.map((machineId) => ({
        machineId,
        run: this.#runs.get(machineId) ?? null,
        last: this.#lasts.get(machineId) ?? null,
      })),
    );
  }

  async destroy(machineId: string): Promise<void> {
    await this.#runs.get(machineId)?.kill();
    this.#lasts.delete(machineId);
    rmSync(join(this.#options.dir, machineId), { recursive: true, force: true });
  }

  outputPath(machineId: string): string {
    return join(this.#options.dir, machineId, "output.log");
  }

  /** The host goes on without its agent. */
  close(): void {}
}
