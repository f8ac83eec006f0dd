/**
 * The two sides of the boot benchmark. A start is timed from just before the spawn
 * to the moment the line "leveret-init <version>" has come out of the serial port,
 * which both sides write to a FIFO of ours: the same kernel, initrd, command line,
 * memory and vCPU, nothing else attached.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VMM_PROGRAM } from "../../agent/runtime/jail.ts";
import { commandLine } from "../../agent/vmm/boot.ts";
import { VMM_FILES, type VmmSpec } from "../../proto/vmm.ts";
import { makeSpec } from "../vm/kit.ts";
import { GuestLines } from "./guest-lines.ts";
import { endGroup, type ExitCounter } from "./vmm-exits.ts";

export type BootInput = {
  kernelPath: string;
  initrdPath: string;
  kernelArgs: string;
  memoryMib: number;
  /**
   * A distribution's kernel. QEMU then has an RTC, which such a kernel reads 20,000 times
   * in vain where there is none, and its devices on virtio-mmio.
   */
  isStock: boolean;
  /** A scratch directory. */
  directory: string;
  timeoutMs: number;
  /** What was started ends when it aborts, and so does the run. */
  signal: AbortSignal;
};

/** What is waited for on the serial port: init's first message. */
export const HELLO = "leveret-init ";
const ROOT = join(import.meta.dir, "../..");

/**
 * Milliseconds. Kills what it started; throws when the line does not come in time.
 * A counter counts from the start to the line.
 */
async function timeToHello(
  fifo: string,
  argv: string[],
  input: BootInput,
  counter: ExitCounter | null,
): Promise<number> {
  input.signal.throwIfAborted();
  using lines = new GuestLines(fifo);
  const said: string[] = [];
  const startedAt = performance.now();
  const child = Bun.spawn(counter?.wrap(argv) ?? argv, {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
    cwd: ROOT,
    detached: true,
  });
  counter?.enable();
  const complaint = new Response(child.stderr).text();
  try {
    // The whole line, so that both sides are timed at its last byte.
    for await (const line of lines.of(child, input)) {
      if (line.includes(HELLO)) return performance.now() - startedAt;
      said.push(line);
    }
    throw new Error("The guest's lines have no end");
  } catch (error) {
    await endGroup(child, counter);
    input.signal.throwIfAborted();
    const why = `${(await complaint).slice(-500)}${said.slice(-8).join("\n")}`;
    throw new Error(`${argv[0]} did not reach init: ${why}`, { cause: error });
  } finally {
    await endGroup(child, counter);
  }
}

/** A machine of which nothing is asked but that line. */
export const bootSpec = (input: BootInput): VmmSpec =>
  makeSpec({
    kernelPath: input.kernelPath,
    initrdPath: input.initrdPath,
    kernelArgs: `${input.kernelArgs} leveret.hello`,
    memoryMib: input.memoryMib,
    initTimeoutMs: input.timeoutMs,
  });

/** The VMM process, as the agent starts it but for the jail. */
export async function bootOurs(
  input: BootInput,
  counter: ExitCounter | null = null,
): Promise<number> {
  const directory = join(input.directory, "ours");
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  writeFileSync(join(directory, VMM_FILES.spec), JSON.stringify(bootSpec(input)));
  const fifo = join(directory, VMM_FILES.console);
  const argv = [VMM_PROGRAM, directory];
  return timeToHello(fifo, argv, input, counter);
}

/** QEMU's own machine for this purpose, with all left out that a boot is not slower without. */
export function qemuMachine({ isStock }: BootInput): string {
  return `microvm,accel=kvm,acpi=on,pit=off,pic=off,rtc=${isStock ? "on" : "off"}`;
}

export async function bootQemu(
  input: BootInput,
  cpu: string | null,
  counter: ExitCounter | null = null,
): Promise<number> {
  const fifo = join(input.directory, "qemu.serial");
  rmSync(fifo, { force: true });
  const append = commandLine(`${input.kernelArgs} leveret.hello`, [], 2047);
  const argv = ["qemu-system-x86_64", "-M", qemuMachine(input)];
  if (cpu !== null) argv.push("-cpu", cpu);
  argv.push("-m", `${input.memoryMib}`, "-smp", "1", "-nodefaults", "-no-user-config");
  argv.push("-display", "none", "-serial", `file:${fifo}`, "-kernel", input.kernelPath);
  argv.push("-initrd", input.initrdPath, "-append", append);
  return timeToHello(fifo, argv, input, counter);
}

/**
 * "host", unless QEMU cannot have it: a KVM without hardware refuses some of the
 * host's MSRs, and then QEMU's default CPU is the one that boots.
 */
export async function qemuCpu(input: BootInput): Promise<string | null> {
  try {
    await bootQemu(input, "host");
    return "host";
  } catch {
    return null; // the warm-up with the default CPU says what is wrong if that fails, too
  }
}
