/**
 * VMM processes started ahead of their machines: in a jail, with a user and a directory,
 * everything loaded and a VM made. A machine's first start takes one and waits for no
 * process, no runtime and no jail; the pool is filled again afterwards.
 *
 *   spawn in <dir>/pol_… ─► "waiting" ─take─► directory renamed to the machine's own,
 *   image linked into it, "boot" ─► a VMM like any other
 *
 * The directory is what is handed over: its mount in the jail follows the rename, so
 * nothing has to be mounted into a jail that is closed. Inside, it keeps its first name.
 * That is why only a machine without a directory, one that starts for the first time,
 * can have a process of the pool; a restart is a cold start.
 *
 * A pool is for one kernel and one size, those of the last start. A process that waits
 * leaves when we do; what a crash leaves behind is removed by `KvmDriver.find`.
 */
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import type { Clock } from "../../lib/clock.ts";
import type { Log } from "../../lib/log.ts";
import { LvError } from "../../proto/errors.ts";
import { VMM_FILES, type VmmExpected } from "../../proto/vmm.ts";
import type { RunRequest } from "./driver.ts";
import type { Jail } from "./jail.ts";
import { isAlive, type ProcessName, signalProcess } from "./proc.ts";
import { spawnVmm } from "./supervise.ts";
import { VmmClient } from "./vmm-client.ts";

/** As long as a machine's: socket paths are. */
const NAME = /^pol_[0-9a-f]{20}$/;
const READY_TIMEOUT_MS = 60_000;
const POLL_MIN_MS = 5;
const POLL_MAX_MS = 200;
/**
 * A start that has just been served is busy booting: it goes first. Where a process took
 * long to get ready a boot takes long, too: as often as this it is waited for.
 */
const REFILL_AFTER_MS = 200;
const REFILL_AFTER_TIMES = 3;

export const isPoolName = (name: string): boolean => NAME.test(name);

/** The image, linked into the directory of a machine that came out of the pool. */
export const WARM_IMAGE = "rootfs.squashfs";

export type Warm = {
  readonly name: ProcessName;
  /** The machine's directory as its VMM knows it. */
  readonly inside: string;
  /** After spec.json is there. */
  boot(): Promise<void>;
  /** Safe twice, and after a boot. */
  discard(): void;
};

type Shape = Pick<RunRequest, keyof VmmExpected>;
type Member = { dir: string; name: ProcessName; client: VmmClient };

export type PoolOptions = {
  /** Machine directories live here. */
  dir: string;
  /** Processes that wait; at least 1. */
  size: number;
  jail: Jail;
  clock: Clock;
  log: Log;
};

const kernelOf = ({ kernelPath, initrdPath }: Shape): string => `${kernelPath}\n${initrdPath}`;

export class Pool {
  readonly #options: PoolOptions;
  #shape: Shape | null = null;
  #members: Member[] = [];
  #filling = false;
  /** What the last process needed to get ready. */
  #readyMs = 0;
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** How many wait and can be taken. */
  get ready(): number {
    return this.#members.length;
  }

  /** Null = start it cold. Else `dir` exists now, and it is the caller's. */
  take(request: RunRequest, dir: string): Warm | null {
    // One that waits would keep pages of 2 MiB, which are few, from those that run.
    if (request.hugepages === true) return null;
    const fits = this.#shape !== null && kernelOf(this.#shape) === kernelOf(request);
    this.#shape = request;
    if (!fits) this.#drop();
    const member = existsSync(dir) ? undefined : this.#members.shift();
    this.#refill();
    return member === undefined ? null : this.#handOver(member, request, dir);
  }

  close(): void {
    this.#closed = true;
    this.#drop();
  }

  #handOver(member: Member, request: RunRequest, dir: string): Warm | null {
    const { name, client, dir: inside } = member;
    const discard = (): void => {
      signalProcess(name, "SIGKILL");
      client.close();
    };
    try {
      if (!isAlive(name)) throw new LvError("VMM_FAULT", `Process ${name.pid} is gone`);
      this.#options.jail.admit(name.pid, request);
      chmodSync(request.squashfsPath, 0o644);
      linkSync(request.squashfsPath, join(inside, WARM_IMAGE));
      rmSync(join(inside, VMM_FILES.pool));
      renameSync(inside, dir);
    } catch (error) {
      // An image on another file system, for one: the machine starts without us.
      this.#options.log.warn({ err: error }, "a process of the pool could not be used");
      discard();
      this.#options.jail.leave(basename(inside));
      rmSync(inside, { recursive: true, force: true });
      return null;
    }
    const boot = async (): Promise<void> => {
      await client.request({ action: "boot" });
      client.close();
    };
    return { name, inside, boot, discard };
  }

  #drop(): void {
    for (const { name, client, dir } of this.#members.splice(0)) {
      signalProcess(name, "SIGKILL");
      client.close();
      this.#options.jail.leave(basename(dir));
      rmSync(dir, { recursive: true, force: true });
    }
  }

  #refill(): void {
    if (this.#filling || this.#closed) return;
    this.#filling = true;
    void this.#fill()
      .catch((error: unknown) => {
        // The next start tries again.
        this.#options.log.error({ err: error }, "the pool of VMM processes cannot be filled");
      })
      .finally(() => {
        this.#filling = false;
      });
  }

  async #fill(): Promise<void> {
    const { clock, size } = this.#options;
    const boot = Math.max(REFILL_AFTER_MS, REFILL_AFTER_TIMES * this.#readyMs);
    await clock.sleep(Math.min(boot, READY_TIMEOUT_MS));
    while (this.#shape !== null && !this.#closed && this.#members.length < size) {
      const shape = this.#shape;
      const member = await this.#spawn(shape);
      this.#members.push(member);
      // What was asked for meanwhile may need another kernel.
      if (this.#closed || kernelOf(this.#shape) !== kernelOf(shape)) this.#drop();
    }
  }

  async #spawn(shape: Shape): Promise<Member> {
    const { jail, clock } = this.#options;
    const id = `pol_${crypto.randomUUID().replaceAll("-", "").slice(0, 20)}`;
    const dir = join(this.#options.dir, id);
    mkdirSync(dir, { mode: 0o700 });
    let name: ProcessName | null = null;
    try {
      const { cpus, cpuTemplate = "host", memoryMib, hugepages = false } = shape;
      const { kernelPath, initrdPath } = shape;
      const kind = { cpus, cpuTemplate, memoryMib, hugepages };
      const expected: VmmExpected = { ...kind, kernelPath, initrdPath };
      writeFileSync(join(dir, VMM_FILES.pool), JSON.stringify(expected));
      const uid = jail.claim(dir);
      const argv = await jail.command({ ...shape, machineId: id, squashfsPath: null }, dir, uid);
      const spawnedAt = clock.now();
      name = await spawnVmm(argv, dir, true);
      const deadline = spawnedAt + READY_TIMEOUT_MS;
      // It has what time the machines leave over, which may be little: nobody asks it often.
      for (let pause = POLL_MIN_MS; isAlive(name) && clock.now() < deadline; pause *= 1.5) {
        const client = await connect(dir, id);
        if (client !== null) {
          this.#readyMs = clock.now() - spawnedAt;
          return { dir, name, client };
        }
        await clock.sleep(Math.min(pause, POLL_MAX_MS));
      }
      throw new LvError("VMM_FAULT", "A VMM process of the pool does not get ready");
    } catch (error) {
      if (name !== null) signalProcess(name, "SIGKILL");
      jail.leave(id);
      rmSync(dir, { recursive: true, force: true });
      throw error;
    }
  }
}

/** Null when nobody listens yet. */
async function connect(dir: string, id: string): Promise<VmmClient | null> {
  try {
    return await VmmClient.connect(join(dir, VMM_FILES.control), id, () => undefined);
  } catch {
    return null; // the caller tries again while the process lives
  }
}
