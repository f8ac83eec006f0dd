/**
 * The two VMMs of `bench vmm` with the guest of vmm-guest.ts: same kernel, initrd,
 * memory, disks, network; each process beside the other's turn. QEMU's microvm gets
 * what serves it best: an I/O thread, io_uring, vnet headers.
 *
 * With a stock kernel its devices are on virtio-mmio, found through ACPI, as ours are.
 * With the development kernel they are on PCI: its virtio-mmio raises levels, which that
 * kernel cannot take. That is in its favour, too, since MSI-X needs no exit to acknowledge.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { VMM_PROGRAM } from "../../agent/runtime/jail.ts";
import { commandLine } from "../../agent/vmm/boot.ts";
import { VMM_FILES, type VmmNetwork } from "../../proto/vmm.ts";
import { makeSpec } from "../vm/kit.ts";
import { type BootInput, qemuMachine } from "./boot-sides.ts";
import { GuestLines } from "./guest-lines.ts";
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
  return [VMM_PROGRAM, directory];
}

function qemuArgv(input: BootInput, work: Workload, fifo: string, cpu: string | null): string[] {
  const isPci = !input.isStock;
  const device = (kind: string): string => `virtio-${kind}-${isPci ? "pci" : "device"}`;
  const argv = ["qemu-system-x86_64", "-M", `${qemuMachine(input)},pcie=${isPci ? "on" : "off"}`];
  if (!isPci) argv.push("-global", "virtio-mmio.force-legacy=false");
  if (cpu !== null) argv.push("-cpu", cpu);
  argv.push("-m", `${input.memoryMib}`, "-smp", "1", "-nodefaults", "-no-user-config");
  argv.push("-display", "none", "-serial", `file:${fifo}`, "-kernel", input.kernelPath);
  argv.push("-object", "iothread,id=io", "-initrd", input.initrdPath);
  const line = commandLine(guestArgs(input, work), [], 2_047);
  argv.push("-append", isPci ? line.replace("pci=off ", "") : line);
  work.disks.forEach((path, i) => {
    const access = i === 0 ? ",readonly=on" : ",discard=unmap";
    argv.push("-drive", `id=d${i},file=${path},format=raw,if=none,aio=io_uring${access}`);
    argv.push("-device", `${device("blk")},drive=d${i},iothread=io`);
  });
  const { network } = work;
  if (network !== null) {
    const backend =
      network.kind === "tap"
        ? `tap,id=n,ifname=${network.name},script=no,downscript=no`
        : `stream,id=n,server=off,addr.type=unix,addr.path=${network.name}`;
    argv.push("-netdev", backend);
    argv.push("-device", `${device("net")},netdev=n,mac=${MAC},host_mtu=${mtuOf(network)}`);
  }
  return argv;
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
  input.signal.throwIfAborted();
  const directory = join(input.directory, `work-${side}`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  const fifo = join(directory, VMM_FILES.console);
  using lines = new GuestLines(fifo);
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
    for await (const line of lines.of(child, input)) {
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
    input.signal.throwIfAborted();
    const why = `${String(error)}\n${await complaint}${said.slice(-8).join("\n")}`;
    throw new Error(`${argv[0]}: ${why}`, { cause: error });
  } finally {
    await endGroup(child, counter);
  }
}
