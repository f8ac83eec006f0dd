/**
 * What a machine costs beyond guest RAM: the private dirty memory of its VMM process
 * (/proc/<pid>/smaps), less the mappings that are guest RAM, once a process of the
 * image has run for a moment. Guest RAM is the memfd and the copy-on-write mappings
 * of kernel and initrd over it.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { JAILED_ENTRY } from "../../agent/runtime/jail.ts";
import { makeSpec, VmmProcess, writeBusyboxImage } from "../vm/kit.ts";
import type { BootInput } from "./boot-sides.ts";

const SETTLE_MS = 2_500;

/** MiB of private dirty memory in the text of smaps, of mappings that `counts` accepts. */
export function privateDirtyMib(smaps: string, counts: (name: string) => boolean): number {
  let kib = 0;
  let counted = false;
  for (const line of smaps.split("\n")) {
    const header = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$/.exec(line);
    if (header !== null) counted = counts(header[1] ?? "");
    else if (counted && line.startsWith("Private_Dirty:")) kib += Number(line.split(/\s+/)[1]);
  }
  return kib / 1_024;
}

/** Never resolves. */
function rejectOn(signal: AbortSignal): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  // Nobody may be waiting when it comes.
  promise.catch(() => undefined);
  signal.addEventListener("abort", () => reject(signal.reason as Error));
  if (signal.aborted) reject(signal.reason as Error);
  return promise;
}

/** Starts `count` machines that sleep, and ends them. One figure for each. */
export async function measureIdle(input: BootInput, count: number): Promise<number[]> {
  const directory = join(input.directory, `idle-${count}`);
  mkdirSync(directory);
  const rootfs = writeBusyboxImage(directory, ["sleep"]);
  await using machines = new AsyncDisposableStack();
  const processes: VmmProcess[] = [];
  const aborted = rejectOn(input.signal);
  for (let i = 0; i < count; i += 1) {
    const machine = join(directory, `m${i}`);
    mkdirSync(machine);
    const spec = makeSpec({
      kernelPath: input.kernelPath,
      initrdPath: input.initrdPath,
      kernelArgs: input.kernelArgs,
      memoryMib: input.memoryMib,
      initTimeoutMs: input.timeoutMs,
      disks: [{ path: rootfs, readOnly: true, id: "rootfs" }],
      process: { argv: ["/bin/sleep", "1000"], env: [], cwd: "/", user: "", stopSignal: 9 },
    });
    const vmm = machines.use(new VmmProcess(machine, spec, {}, JAILED_ENTRY));
    processes.push(vmm);
    const client = await vmm.control();
    if (!(await Promise.race([client.reached("running"), aborted])))
      throw new Error(`Machine ${i} did not start: ${JSON.stringify(vmm.status())}`);
  }
  // Idle is a state of time: the runtime frees what the start needed within seconds.
  await Promise.race([Bun.sleep(SETTLE_MS), aborted]);
  const isGuestRam = (name: string): boolean =>
    name.startsWith("/memfd:leveret-ram") ||
    name.startsWith(input.kernelPath) ||
    name.startsWith(input.initrdPath);
  return processes.map((vmm) =>
    privateDirtyMib(readFileSync(`/proc/${vmm.pid}/smaps`, "utf8"), (name) => !isGuestRam(name)),
  );
}
