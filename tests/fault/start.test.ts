/** A start that fails at any step leaves nothing of itself, and every undo is safe twice. */
import { afterEach, beforeEach, describe, expect, test, setDefaultTimeout } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RunRequest } from "../../agent/runtime/driver.ts";
import type { Hook } from "../../agent/runtime/hooks/hook.ts";
import { rootfsHook } from "../../agent/runtime/hooks/rootfs.ts";
import { directoryHook, plainLaunch, vmmHook } from "../../agent/runtime/hooks/vmm.ts";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { listProcesses } from "../../agent/runtime/proc.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { LvError } from "../../proto/errors.ts";
import { MachineId } from "../../proto/ids.ts";
import { failure } from "../kit/failure.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(30_000);

const COMMAND = [process.execPath, join(import.meta.dir, "..", "kit", "fake-vmm.ts")];
const HOOKS = [directoryHook, rootfsHook, vmmHook(plainLaunch(COMMAND), systemClock)];
const never = new AbortController().signal;

const request = (machineId: string, incarnation = 1): RunRequest => ({
  machineId,
  incarnation,
  cpus: 1,
  memoryMib: 128,
  diskMib: 32,
  kernelPath: "/dev/null",
  initrdPath: null,
  kernelArgs: "",
  squashfsPath: "/dev/null",
  process: { argv: ["idle"], env: [], cwd: "/", user: "", stopSignal: 15 },
  hostname: "guest",
});

/** The hook fails before or after its work, and is undone twice. */
function failing(hook: Hook, when: "before" | "after", abort?: () => void): Hook {
  return {
    name: hook.name,
    async up(context) {
      if (when === "after") await hook.up(context);
      if (abort === undefined) throw new LvError("DISK_FULL", `${when} ${hook.name}`);
      abort();
    },
    async down(context) {
      await hook.down(context);
      await hook.down(context);
    },
  };
}

describe("a start", () => {
  let dir = "";
  let id: MachineId;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "lev-fault-"));
    id = MachineId.create();
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const driver = (hooks: Hook[]): KvmDriver =>
    new KvmDriver({
      dir,
      clock: systemClock,
      log: silentLog(),
      command: COMMAND,
      kvmDevice: null,
      hooks,
    });
  const vmms = (): number =>
    listProcesses().filter(({ argv }) => argv.at(-1)?.startsWith(`${dir}/`)).length;

  for (const [index, hook] of HOOKS.entries())
    for (const when of ["before", "after"] as const) {
      test(`that fails ${when} ${hook.name} leaves nothing`, async () => {
        const hooks = HOOKS.with(index, failing(hook, when));
        const error = await failure(driver(hooks).start(request(id), never));
        expect(error).toMatchObject({ reason: "DISK_FULL", message: `${when} ${hook.name}` });
        expect(readdirSync(dir)).toEqual([]);
        expect(vmms()).toBe(0);
      });

      test(`that is aborted ${when} ${hook.name} leaves nothing`, async () => {
        const controller = new AbortController();
        const abort = (): void => controller.abort(new LvError("SUPERSEDED", "newer"));
        const hooks = HOOKS.with(index, failing(hook, when, abort));
        const error = await failure(driver(hooks).start(request(id), controller.signal));
        expect(error.reason).toBe("SUPERSEDED");
        expect(readdirSync(dir)).toEqual([]);
        expect(vmms()).toBe(0);
      });

      test(`that fails ${when} ${hook.name} keeps what an earlier run left`, async () => {
        const good = driver(HOOKS);
        const run = await good.start(request(id), never);
        await until("it runs", () => run.status.phase === "running");
        await run.stop(0, 1_000);
        await run.ended;
        const kept = readdirSync(join(dir, id)).filter((name) => /^(scratch|output)/.test(name));
        const hooks = HOOKS.with(index, failing(hook, when));
        await failure(driver(hooks).start(request(id, 2), never));
        const left = readdirSync(join(dir, id)).filter((name) => /^(scratch|output)/.test(name));
        expect(left).toEqual(kept);
        expect(readdirSync(join(dir, id)).filter((name) => name.includes(".sock"))).toEqual([]);
        expect(vmms()).toBe(0);
      });
    }

  test("an undo that fails does not keep the others from running", async () => {
    const broken: Hook = {
      name: "broken",
      up: () => Promise.reject(new LvError("DISK_FULL", "no")),
      down: () => Promise.reject(new Error("neither")),
    };
    await failure(driver([...HOOKS.slice(0, 2), broken]).start(request(id), never));
    expect(readdirSync(dir)).toEqual([]);
  });

  test("a host without /dev/kvm says so before anything is made", async () => {
    const kvmDevice = join(dir, "no-such-device");
    const options = { dir, clock: systemClock, log: silentLog(), command: COMMAND, kvmDevice };
    const error = await failure(new KvmDriver(options).start(request(id), never));
    expect(error.reason).toBe("KVM_MISSING");
    expect(readdirSync(dir)).toEqual([]);
  });
});
