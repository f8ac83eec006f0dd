/**
 * How often a guest's CPU leaves KVM for its VMM, as the kernel's tracepoint counts it
 * (perf), the same for every VMM. Exits that KVM handles itself are the guest's affair.
 * `perf stat` starts the VMM and counts only while it is told to.
 */
import { closeSync, constants, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";

const EVENT = "kvm:kvm_userspace_exit";

/** "" when it can; else why not. */
export function whyNoExits(): string {
  if (Bun.which("perf") === null) return "perf is not installed (apt-get install linux-perf)";
  const { exitCode, stderr } = Bun.spawnSync(["perf", "stat", "-a", "-e", EVENT, "true"]);
  return exitCode === 0 ? "" : `perf cannot count ${EVENT}: ${stderr.toString().slice(0, 200)}`;
}

export class ExitCounter implements Disposable {
  readonly #fd: number;
  readonly #control: string;
  readonly #report: string;

  constructor(directory: string) {
    this.#control = join(directory, "perf.control");
    this.#report = join(directory, "perf.report");
    if (Bun.spawnSync(["mkfifo", this.#control]).exitCode !== 0)
      throw new Error(`Cannot make ${this.#control}`);
    this.#fd = openSync(this.#control, constants.O_RDWR);
  }

  /** What to execute instead of `argv`; it reports when its process group gets SIGINT. */
  wrap(argv: string[]): string[] {
    const options = ["--delay=-1", `--control=fifo:${this.#control}`, "-x,", "-o", this.#report];
    return ["perf", "stat", ...options, "-e", EVENT, "--", ...argv];
  }

  enable(): void {
    writeSync(this.#fd, "enable\n");
  }

  disable(): void {
    writeSync(this.#fd, "disable\n");
  }

  /** After perf has ended. */
  read(): number {
    const text = readFileSync(this.#report, "utf8");
    const line = text.split("\n").find((it) => it.includes(EVENT)) ?? "";
    const count = Number(line.split(",")[0]);
    if (!Number.isSafeInteger(count)) throw new Error(`perf reports no count: ${text}`);
    return count;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
    rmSync(this.#control);
    rmSync(this.#report, { force: true });
  }
}

/** Ends a process that leads a group, and waits: at once, or so that perf reports. */
export async function endGroup(child: Bun.Subprocess, counter: ExitCounter | null): Promise<void> {
  if (child.exitCode === null && child.signalCode === null)
    process.kill(-child.pid, counter === null ? "SIGKILL" : "SIGINT");
  await child.exited;
}
