/**
 * The two VMMs of `bench vmm` with the guest of vmm-guest.ts: same kernel, initrd,
 * memory, disks, network; each process beside the other's turn. QEMU's microvm gets
 * what serves it best: an I/O thread, io_uring, vnet headers.
 *
 * Its devices are on PCI: its virtio-mmio raises levels, which the development kernel
 * cannot take. That is in its favour, too, since MSI-X needs no exit to acknowledge.
 */
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  read,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { JAILED_ENTRY } from "../../agent/runtime/jail.ts";
import { commandLine } from "../../agent/vmm/boot.ts";
import { VMM_FILES, type VmmNetwork } from "../../proto/vmm.ts";
import { makeSpec } from "../vm/kit.ts";
import type { BootInput } from "./boot-sides.ts";
import { endGroup, type ExitCounter } from "./vmm-exits.ts";
import type { Job } from "./vmm-guest.ts";

export type Side = "ours" | "peer";

export type Network = { kind: "tap" | "passt"; name: string; host: string; address: string };

export type Workload = {
  jobs: readonly Job[];
  /** Read-only tools, then the data. */
  disks: readonly [string, string];
  network: Network | null;
  /** Of the iperf3 server. */
  port: number;
};

export type Outcome = { job: Job; numbers: number[]; words: string };

const MAC = "02:00:00:00:00:09";
const mtuOf = ({ kind }: Network): number => (kind === "tap" ? 1_500 : 65_520);

function guestArgs(input: BootInput, { jobs, network, port }: Workload): string {
  const net =
    network === null
      ? ""
      : ` bench.host=${network.host} bench.port=${port} bench.address=${network.address}`;
  return `${input.kernelArgs} bench.jobs=${jobs.join(",")}${net}`;
}

function ourArgv(input: BootInput, work: Workload, directory: string): string[] {
  const { network } = work;
  const networks: VmmNetwork[] =
    network === null ? [] : [{ ...network, mac: MAC, mtu: mtuOf(network), gateway: network.host }];
  const spec = makeSpec({
    ...input,
    kernelArgs: guestArgs(input, work),
    initTimeoutMs: input.timeoutMs,
    disks: [
      { path: work.disks[0], readOnly: true, id: "tools" },
      { path: work.disks[1], readOnly: false, id: "data" },
    ],
    networks,
  });
  writeFileSync(join(directory, VMM_FILES.spec), JSON.stringify(spec));
  return [process.execPath, JAILED_ENTRY, directory];
}

function qemuArgv(input: BootInput, work: Workload, fifo: string, cpu: string | null): string[] {
  const machine = "microvm,accel=kvm,acpi=on,pcie=on,pit=off,pic=off,rtc=off";
  const argv = ["qemu-system-x86_64", "-M", machine];
  if (cpu !== null) argv.push("-cpu", cpu);
  argv.push("-m", `${input.memoryMib}`, "-smp", "1", "-nodefaults", "-no-user-config");
  argv.push("-display", "none", "-serial", `file:${fifo}`, "-kernel", input.kernelPath);
  argv.push("-object", "iothread,id=io", "-initrd", input.initrdPath);
  const line = commandLine(guestArgs(input, work), [], 2_047);
  argv.push("-append", line.replace("pci=off ", ""));
  work.disks.forEach((path, i) => {
    const access = i === 0 ? ",readonly=on" : ",discard=unmap";
    argv.push("-drive", `id=d${i},file=${path},format=raw,if=none,aio=io_uring${access}`);
    argv.push("-device", `virtio-blk-pci,drive=d${i},iothread=io`);
  });
  const { network } = work;
  if (network !== null) {
    const backend =
      network.kind === "tap"
        ? `tap,id=n,ifname=${network.name},script=no,downscript=no`
        : `stream,id=n,server=off,addr.type=unix,addr.path=${network.name}`;
    argv.push("-netdev", backend);
    argv.push("-device", `virtio-net-pci,netdev=n,mac=${MAC},host_mtu=${mtuOf(network)}`);
  }
  return argv;
}

/** Lines as they come; ends with an error when the process does, or its time is over. */
async function* linesOf(
  fd: number,
  child: Bun.Subprocess,
  timeoutMs: number,
): AsyncGenerator<string> {
  const buffer = Buffer.alloc(64 << 10);
  let isRead = true;
  const end = (): void => {
    if (isRead) writeSync(fd, "\nOVER\n");
  };
  const timer = setTimeout(end, timeoutMs);
  void child.exited.then(end);
  let text = "";
  try {
    for (;;) {
      const { promise, resolve, reject } = Promise.withResolvers<number>();
      read(fd, buffer, 0, buffer.length, null, (error, got) =>
        error === null ? resolve(got) : reject(error),
      );
      text += buffer.toString("utf8", 0, await promise);
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "OVER") throw new Error(`The guest did not end its work; last: ${text}`);
        yield line.trim();
      }
    }
  } finally {
    isRead = false;
    clearTimeout(timer);
  }
}

function jobOf(line: string, work: Workload): Outcome | null {
  const [, name, ...rest] = line.split(" ");
  const job = work.jobs.find((it) => it === name);
  return job === undefined ? null : { job, numbers: rest.map(Number), words: rest.join(" ") };
}

/**
 * Runs the workload on one side, to its DONE; `counter` counts while a job runs.
 * Throws with the process's words.
 */
export async function runWorkload(
  side: Side,
  input: BootInput,
  work: Workload,
  cpu: string | null,
  counter: ExitCounter | null = null,
): Promise<Outcome[]> {
  const directory = join(input.directory, `work-${side}`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  const fifo = join(directory, VMM_FILES.console);
  if (Bun.spawnSync(["mkfifo", fifo]).exitCode !== 0) throw new Error(`Cannot make ${fifo}`);
  const fd = openSync(fifo, constants.O_RDWR);
  const argv = side === "ours" ? ourArgv(input, work, directory) : qemuArgv(input, work, fifo, cpu);
  const child = Bun.spawn(counter?.wrap(argv) ?? argv, {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
    detached: true,
  });
  const complaint = new Response(child.stderr).text();
  const outcomes: Outcome[] = [];
  const said: string[] = [];
  try {
    for await (const line of linesOf(fd, child, input.timeoutMs)) {
      said.push(line);
      if (line === "DONE") break;
      const outcome = jobOf(line, work);
      if (outcome !== null && line.startsWith("BEGIN ")) counter?.enable();
      if (outcome === null || !line.startsWith("RESULT ")) continue;
      counter?.disable();
      outcomes.push(outcome);
    }
    return outcomes;
  } catch (error) {
    await endGroup(child, counter);
    const why = `${String(error)}\n${await complaint}${said.slice(-8).join("\n")}`;
    throw new Error(`${argv[0]}: ${why}`, { cause: error });
  } finally {
    await endGroup(child, counter);
    closeSync(fd);
  }
}
