/**
 * The two sides of the boot benchmark. A start is timed from just before the spawn
 * to the moment the line "leveret-init <version>" has come out of the serial port,
 * which both sides write to a FIFO of ours: the same kernel, initrd, command line,
 * memory and vCPU, nothing else attached.
 */
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { JAILED_ENTRY } from "../../agent/runtime/jail.ts";
import { commandLine } from "../../agent/vmm/boot.ts";
import { VMM_FILES, type VmmSpec } from "../../proto/vmm.ts";
import { endGroup, type ExitCounter } from "./vmm-exits.ts";

export type BootInput = {
  kernelPath: string;
  initrdPath: string;
  kernelArgs: string;
  memoryMib: number;
  /** A scratch directory. */
  directory: string;
  timeoutMs: number;
};

const HELLO = "leveret-init ";
const ROOT = join(import.meta.dir, "../..");

/**
 * Milliseconds. Kills what it started; throws when the line does not come in time.
 * A counter counts from the start to the line.
 */
async function timeToHello(
  fifo: string,
  argv: string[],
  timeoutMs: number,
  counter: ExitCounter | null,
): Promise<number> {
  // Read-write, so that opening does not wait for the other end.
  const fd = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
  const buffer = Buffer.alloc(64 << 10);
  let said = "";
  const startedAt = performance.now();
  const child = Bun.spawn(counter?.wrap(argv) ?? argv, {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
    cwd: ROOT,
    detached: true,
  });
  counter?.enable();
  try {
    for (;;) {
      said += readSome(fd, buffer);
      // The whole line, so that both sides are timed at its last byte.
      if (said.includes("\n", Math.max(said.indexOf(HELLO), 0)) && said.includes(HELLO))
        return performance.now() - startedAt;
      // A child that a signal ended (QEMU aborts) has no exit code.
      if (child.exitCode !== null || child.signalCode !== null) break;
      if (performance.now() - startedAt > timeoutMs) break;
      await Bun.sleep(0.2);
    }
  } finally {
    await endGroup(child, counter);
    closeSync(fd);
  }
  const stderr = await new Response(child.stderr).text();
  throw new Error(`${argv[0]} did not reach init: ${stderr.slice(-500)}${said.slice(-500)}`);
}

function readSome(fd: number, buffer: Buffer): string {
  try {
    return buffer.toString("utf8", 0, readSync(fd, buffer));
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EAGAIN") return "";
    throw error;
  }
}

function makeFifo(path: string): void {
  const { exitCode } = Bun.spawnSync(["mkfifo", path]);
  if (exitCode !== 0) throw new Error(`Cannot make ${path}`);
}

/** The VMM process, as the agent starts it but for the jail. */
export async function bootOurs(
  input: BootInput,
  counter: ExitCounter | null = null,
): Promise<number> {
  const directory = join(input.directory, "ours");
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  const spec: VmmSpec = {
    version: 1,
    machineId: "mch_00000000000000000000",
    incarnation: 1,
    cpus: 1,
    memoryMib: input.memoryMib,
    kernelPath: input.kernelPath,
    initrdPath: input.initrdPath,
    kernelArgs: `${input.kernelArgs} leveret.hello`,
    disks: [],
    networks: [],
    process: { argv: ["/bin/true"], env: [], cwd: "/", user: "", stopSignal: 15 },
    hostname: "guest",
    resolvConf: "",
    outputLimitBytes: 1 << 20,
    initTimeoutMs: input.timeoutMs,
  };
  writeFileSync(join(directory, VMM_FILES.spec), JSON.stringify(spec));
  const fifo = join(directory, VMM_FILES.console);
  makeFifo(fifo);
  const argv = [process.execPath, JAILED_ENTRY, directory];
  return timeToHello(fifo, argv, input.timeoutMs, counter);
}

/** QEMU's own machine for this purpose, with all it can leave out left out. */
export async function bootQemu(
  input: BootInput,
  cpu: string | null,
  counter: ExitCounter | null = null,
): Promise<number> {
  const fifo = join(input.directory, "qemu.serial");
  rmSync(fifo, { force: true });
  makeFifo(fifo);
  const append = commandLine(`${input.kernelArgs} leveret.hello`, [], 2047);
  const argv = ["qemu-system-x86_64", "-M", "microvm,accel=kvm,acpi=on,pit=off,pic=off,rtc=off"];
  if (cpu !== null) argv.push("-cpu", cpu);
  argv.push("-m", `${input.memoryMib}`, "-smp", "1", "-nodefaults", "-no-user-config");
  argv.push("-display", "none", "-serial", `file:${fifo}`, "-kernel", input.kernelPath);
  argv.push("-initrd", input.initrdPath, "-append", append);
  return timeToHello(fifo, argv, input.timeoutMs, counter);
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
