/**
 * Boots as an agent's machines have them: a process of the pool, in its jail and cgroup.
 * Timed from the decision to start to the line that boot-sides.ts waits for; the same
 * kernel, initrd, command line and memory, and no disk either.
 */
import { chmodSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Cgroups } from "../../agent/runtime/cgroup.ts";
import { Jail } from "../../agent/runtime/jail.ts";
import { isAlive } from "../../agent/runtime/proc.ts";
import { Pool } from "../../agent/runtime/pool.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { MachineId } from "../../proto/ids.ts";
import { VMM_FILES } from "../../proto/vmm.ts";
import { until } from "../kit/until.ts";
import { type BootInput, bootSpec, HELLO } from "./boot-sides.ts";
import { GuestLines } from "./guest-lines.ts";
import { makeRequest, untilWarm } from "./vmm-start.ts";

const UID_BASE = 1_930_100_000;
/** The process is the pool's, and no child of ours: only silence tells that it is gone. */
const UNSEEN = { exited: new Promise<never>(() => undefined) };

export class PoolBoots implements Disposable {
  readonly #input: BootInput;
  readonly #machines: string;
  readonly #image: string;
  readonly #jail: Jail;
  readonly #pool: Pool;

  constructor(input: BootInput) {
    this.#input = input;
    this.#machines = join(input.directory, "pool");
    mkdirSync(this.#machines, { recursive: true });
    chmodSync(this.#machines, 0o755);
    this.#image = join(this.#machines, "image");
    writeFileSync(this.#image, "");
    const [dir, clock, log] = [this.#machines, systemClock, silentLog()];
    const cgroups = Cgroups.open(log, null);
    this.#jail = new Jail({ dir, uidBase: UID_BASE, cgroups });
    this.#pool = new Pool({ dir, size: 1, jail: this.#jail, clock, log });
  }

  /** Milliseconds. Throws when the line does not come in time. */
  async time(): Promise<number> {
    const input = this.#input;
    input.signal.throwIfAborted();
    const request = makeRequest({
      ...input,
      squashfsPath: this.#image,
      machineId: MachineId.create(),
    });
    await untilWarm(this.#pool, request, this.#machines);
    const dir = join(this.#machines, request.machineId);
    const fifo = join(this.#machines, VMM_FILES.console);
    using lines = new GuestLines(fifo);
    const said: string[] = [];
    const startedAt = performance.now();
    const warm = this.#pool.take(request, dir);
    if (warm === null) throw new Error("The pool had no process");
    try {
      renameSync(fifo, join(dir, VMM_FILES.console));
      writeFileSync(join(dir, VMM_FILES.spec), JSON.stringify(bootSpec(input)));
      this.#jail.claim(dir);
      await warm.boot();
      for await (const line of lines.of(UNSEEN, input)) {
        if (line.includes(HELLO)) return performance.now() - startedAt;
        said.push(line);
      }
      throw new Error("The guest's lines have no end");
    } catch (error) {
      input.signal.throwIfAborted();
      const why = `A process of the pool did not reach init: ${said.slice(-8).join("\n")}`;
      throw new Error(why, { cause: error });
    } finally {
      warm.discard();
      await until("it has left", () => !isAlive(warm.name));
      this.#jail.leave(request.machineId);
      rmSync(dir, { recursive: true, force: true });
      // The next one gets ready now, and not beside whoever's turn it is.
      await untilWarm(this.#pool, request, this.#machines);
    }
  }

  [Symbol.dispose](): void {
    this.#pool.close();
  }
}
