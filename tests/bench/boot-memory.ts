/**
 * What a machine costs beyond guest RAM: the private dirty memory of its VMM process
 * (/proc/<pid>/smaps), less the mappings that are guest RAM, once a process of the
 * image has run for a moment. Guest RAM is what the shim has huge pages for and keeps
 * out of core files, and the copy-on-write mappings of kernel and initrd over it.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { VMM_PROGRAM } from "../../agent/runtime/jail.ts";
import { makeSpec, VmmProcess, writeBusyboxImage } from "../vm/kit.ts";
import type { BootInput } from "./boot-sides.ts";

const SETTLE_MS = 2_500;

type Mapping = { name: string; flags: ReadonlySet<string>; rssKib: number; dirtyKib: number };

/** The mappings in the text of smaps. */
export function mappingsOf(smaps: string): Mapping[] {
  const header = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$/m;
  return smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m).map((text) => ({
    name: header.exec(text)?.[1] ?? "",
    flags: new Set(/^VmFlags: (.*)$/m.exec(text)?.[1]?.trim().split(" ")),
    rssKib: Number(/^Rss: +(\d+)/m.exec(text)?.[1] ?? 0),
    dirtyKib: Number(/^Private_Dirty: +(\d+)/m.exec(text)?.[1] ?? 0),
  }));
}

/** Without the pages of the kernel's and the initrd's files. */
export const isGuestRam = ({ flags }: Mapping): boolean => flags.has("hg") && flags.has("dd");

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
    const vmm = machines.use(new VmmProcess(machine, spec, {}, [VMM_PROGRAM]));
    processes.push(vmm);
    const client = await vmm.control();
    if (!(await Promise.race([client.reached("running"), aborted])))
      throw new Error(`Machine ${i} did not start: ${JSON.stringify(vmm.status())}`);
  }
  // Idle is a state of time: the runtime frees what the start needed within seconds.
  await Promise.race([Bun.sleep(SETTLE_MS), aborted]);
  const isGuests = (mapping: Mapping): boolean =>
    isGuestRam(mapping) ||
    mapping.name.startsWith(input.kernelPath) ||
    mapping.name.startsWith(input.initrdPath);
  return processes.map((vmm) => {
    const mappings = mappingsOf(readFileSync(`/proc/${vmm.pid}/smaps`, "utf8"));
    const own = mappings.filter((mapping) => !isGuests(mapping));
    return own.reduce((sum, { dirtyKib }) => sum + dirtyKib, 0) / 1_024;
  });
}
