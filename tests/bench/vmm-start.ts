/**
 * How long from the decision to start a machine to the first instruction of its guest:
 * cold (the launcher is executed) and with a process of the pool (from its taking on,
 * with all the agent does). Jailed, with kernel, initrd and disks as an agent has them.
 *
 * The guest's kernel is a copy whose entry point writes one byte to the serial port,
 * which is a FIFO of ours: nobody's own account is believed.
 */
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  mkdirSync,
  openSync,
  read,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { RunRequest } from "../../agent/runtime/driver.ts";
import type { HookContext } from "../../agent/runtime/hooks/hook.ts";
import {
  directoryHook,
  jailHook,
  type Launch,
  vmmHook,
  warmHook,
} from "../../agent/runtime/hooks/vmm.ts";
import { Jail } from "../../agent/runtime/jail.ts";
import { Pool } from "../../agent/runtime/pool.ts";
import { planKernel } from "../../agent/vmm/kernel-image.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { MachineId } from "../../proto/ids.ts";
import { VMM_FILES } from "../../proto/vmm.ts";
import { until } from "../kit/until.ts";
import { writeBusyboxImage } from "../vm/kit.ts";
import type { BootInput } from "./boot-sides.ts";

const UID_BASE = 1_930_000_000;
const SCRATCH_BYTES = 64 << 20;
const SILENCE_MS = 10_000;
const NEW_LINE = 10;
/** mov dx, 0x3f8; mov al, '\n'; out dx, al; 1: hlt; jmp 1b */
const FIRST_INSTRUCTIONS = [0x66, 0xba, 0xf8, 0x03, 0xb0, 0x0a, 0xee, 0xf4, 0xeb, 0xfd];

/** A copy of an ELF kernel that says it was entered, and stops. */
export function writeSpeakingKernel(kernelPath: string, path: string): void {
  const bytes = new Uint8Array(readFileSync(kernelPath));
  const { segments, entry } = planKernel({
    path: kernelPath,
    bytes: bytes.length,
    read: (at, into) => into.set(bytes.subarray(at, at + into.length)),
  });
  const home = segments.find(({ gpa, fileBytes }) => entry >= gpa && entry < gpa + fileBytes);
  if (home === undefined) throw new Error(`${kernelPath} is entered nowhere`);
  bytes.set(FIRST_INSTRUCTIONS, home.offset + entry - home.gpa);
  writeFileSync(path, bytes);
}

/** The guest's serial port, made elsewhere and put into the machine's directory. */
class Console implements Disposable {
  readonly #fd: number;
  readonly #path: string;

  constructor(path: string) {
    const { exitCode } = Bun.spawnSync(["mkfifo", path]);
    if (exitCode !== 0) throw new Error(`Cannot make ${path}`);
    this.#path = path;
    // Read-write, so that opening does not wait for the other end.
    this.#fd = openSync(path, constants.O_RDWR);
  }

  moveInto(dir: string): void {
    renameSync(this.#path, join(dir, VMM_FILES.console));
  }

  /** performance.now() of the first byte. */
  async spoke(): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const silent = setTimeout(() => writeSync(this.#fd, "?"), SILENCE_MS);
    const byte = Buffer.alloc(1);
    read(this.#fd, byte, 0, 1, null, (error) => {
      clearTimeout(silent);
      if (error === null && byte[0] === NEW_LINE) resolve(performance.now());
      else reject(error ?? new Error("The guest was not entered"));
    });
    return promise;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

type Named = "machineId" | "kernelPath" | "initrdPath" | "squashfsPath" | "memoryMib";

/** What an agent is asked for, of a machine with one vCPU. */
export const makeRequest = (named: Pick<RunRequest, Named>): RunRequest => ({
  incarnation: 1,
  cpus: 1,
  diskMib: 64,
  kernelArgs: "",
  process: { argv: ["/bin/sh"], env: [], cwd: "/", user: "", stopSignal: 9 },
  hostname: "guest",
  ...named,
});

/** Until a process for such a request waits in the pool; `dir` is any that exists. */
export async function untilWarm(pool: Pool, request: RunRequest, dir: string): Promise<void> {
  // A start in a directory that exists is a cold one; it tells the pool what to be ready for.
  if (pool.ready === 0) pool.take(request, dir);
  await until("a process waits", () => pool.ready > 0);
}

/** Starts machines as an agent does; everything is gone at the end of the scope. */
export class Starter implements Disposable {
  readonly #machines: string;
  readonly #jail: Jail;
  readonly #pool: Pool;
  readonly #files: { kernelPath: string; initrdPath: string; squashfsPath: string };
  readonly #memoryMib: number;
  #made = 0;

  constructor({ directory, kernelPath, initrdPath, memoryMib }: BootInput) {
    const home = join(directory, "start");
    this.#machines = join(home, "machines");
    mkdirSync(this.#machines, { recursive: true });
    this.#memoryMib = memoryMib;
    const [kernel, initrd] = [join(home, "vmlinux"), join(home, "initrd")];
    writeSpeakingKernel(kernelPath, kernel);
    copyFileSync(initrdPath, initrd);
    chmodSync(kernel, 0o644);
    const squashfsPath = writeBusyboxImage(home, ["sh"]);
    this.#files = { kernelPath: kernel, initrdPath: initrd, squashfsPath };
    const [dir, clock, log] = [this.#machines, systemClock, silentLog()];
    this.#jail = new Jail({ dir, uidBase: UID_BASE, cgroups: null });
    this.#pool = new Pool({ dir, size: 1, jail: this.#jail, clock, log });
  }

  /** Milliseconds. The scratch disk is made beforehand: its mkfs is a start's business, not the VMM's. */
  async time(side: "cold" | "pool"): Promise<number> {
    this.#made += 1;
    const context = this.#context(MachineId.create());
    using port = new Console(join(this.#machines, `fifo${this.#made}`));
    const scratch = join(this.#machines, `scratch${this.#made}`);
    writeFileSync(scratch, "");
    truncateSync(scratch, SCRATCH_BYTES);
    const launch: Launch = {
      argv: ({ request, dir, uid }) =>
        this.#jail.command(request, dir, uid ?? this.#jail.claim(dir)),
      forks: true,
    };
    const hooks = [
      ...(side === "pool" ? [warmHook(this.#pool)] : []),
      directoryHook,
      jailHook(this.#jail),
      vmmHook(launch, systemClock),
    ];
    if (side === "pool") await untilWarm(this.#pool, context.request, this.#machines);
    const spoke = port.spoke();
    let from = performance.now();
    for (const hook of hooks) {
      await hook.up(context);
      if (hook !== directoryHook) continue;
      // Of a cold start, only what the process and its jail cost.
      if (side === "cold") from = performance.now();
      port.moveInto(context.dir);
      renameSync(scratch, join(context.dir, VMM_FILES.scratch));
    }
    try {
      if (side === "pool" && context.warm === null) throw new Error("The pool had no process");
      return (await spoke) - from;
    } finally {
      for (const hook of hooks.toReversed()) await hook.down(context);
      rmSync(context.dir, { recursive: true, force: true });
    }
  }

  #context(machineId: string): HookContext {
    return {
      request: makeRequest({ ...this.#files, machineId, memoryMib: this.#memoryMib }),
      dir: join(this.#machines, machineId),
      signal: new AbortController().signal,
      madeDirectory: false,
      madeScratch: false,
      uid: null,
      network: null,
      warm: null,
      run: null,
    };
  }

  [Symbol.dispose](): void {
    this.#pool.close();
  }
}
