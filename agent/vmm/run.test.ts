import { expect, test } from "bun:test";
import { GUEST_ERROR, HOST_FRAME } from "../../proto/guest.ts";
import type { VmmRequest, VmmSpec } from "../../proto/vmm.ts";
import type { VmEvent } from "../../native/ffi.ts";
import { ALLOWED } from "./actions.ts";
import { Run, type RunState } from "./run.ts";

const spec: VmmSpec = {
  version: 1,
  machineId: "mch_1",
  incarnation: 1,
  cpus: 1,
  memoryMib: 128,
  kernelPath: "/k",
  initrdPath: null,
  kernelArgs: "",
  disks: [],
  networks: [],
  process: { argv: ["/bin/true"], env: [], cwd: "/", user: "", stopSignal: 3 },
  hostname: "m",
  resolvConf: "",
  outputLimitBytes: 4096,
  initTimeoutMs: 30_000,
};

/** A run whose guest, clock and VM are this object. */
function world() {
  const timers: { atMs: number; call: () => void }[] = [];
  const sent: string[] = [];
  const states: RunState[] = [];
  const it = {
    nowMs: 10,
    stops: 0,
    /** The channel still has output of the guest when the VM stops, until `drained`. */
    holdsOutput: false,
    drained: (): void => undefined,
    output: "",
    vm: [] as string[],
    console: "",
    sent,
    states,
    timers,
    advance: (ms: number): void => {
      it.nowMs += ms;
      for (;;) {
        const due = timers.findIndex((timer) => timer.atMs <= it.nowMs);
        const [timer] = due < 0 ? [] : timers.splice(due, 1);
        if (timer === undefined) return;
        timer.call();
      }
    },
    run: undefined as unknown as Run,
  };
  it.run = new Run({
    spec,
    now: () => it.nowMs,
    uptimeUs: () => it.nowMs * 1000,
    after: (ms, call) => {
      const timer = { atMs: it.nowMs + ms, call };
      timers.push(timer);
      return () => {
        if (timers.includes(timer)) timers.splice(timers.indexOf(timer), 1);
      };
    },
    sendToGuest: (frame) => {
      const view = new DataView(frame.buffer);
      const type = view.getUint16(4, true);
      if (type === HOST_FRAME.run) sent.push("run");
      else if (type === HOST_FRAME.poweroff) sent.push("poweroff");
      else sent.push(`signal ${view.getUint32(8, true)}`);
      return true;
    },
    appendOutput: (_stream, data) => (it.output += new TextDecoder().decode(data)),
    lastConsoleLine: () => it.console,
    pauseVm: () => {
      it.vm.push("pause");
      return true;
    },
    setBalloon: (bytes) => it.vm.push(`balloon ${bytes}`),
    resumeVm: () => it.vm.push("resume"),
    pressPower: () => it.vm.push("power button"),
    stopVm: (done) => {
      it.stops += 1;
      it.drained = done;
      if (!it.holdsOutput) done();
    },
    changed: (state) => states.push(state),
    log: () => undefined,
  });
  return it;
}

const event = (kind: VmEvent["kind"], words: Partial<VmEvent> = {}): VmEvent => ({
  kind,
  vcpu: 0,
  device: 0,
  detail: 0,
  value: 0,
  error: 0,
  timeNs: 0,
  bytes: new Uint8Array(16),
  ...words,
});

const stop: VmmRequest = { id: 1, action: "stop", signal: 0, timeoutMs: 5000 };
const phases = (states: readonly RunState[]): string[] => states.map((state) => state.phase);

test("a process that runs and exits: run, poweroff, ended with its code", () => {
  const it = world();
  it.advance(90);
  it.run.hello();
  it.run.started();
  it.run.exit(7, 0);
  expect(it.run.state.phase).toBe("running");
  it.run.vmEvent(event("power_off"));
  expect(it.sent).toEqual(["run", "poweroff"]);
  expect(phases(it.states)).toEqual(["booting", "running", "ended"]);
  expect(it.run.state).toEqual({
    phase: "ended",
    bootUs: 100_000,
    startedAtMs: 100,
    endedAtMs: 100,
    exitCode: 7,
  });
  expect([it.stops, it.timers.length]).toEqual([1, 0]);
});

test("a process ended by a signal has 128 + signal", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  it.run.exit(0, 11);
  it.run.vmEvent(event("reset"));
  expect(it.run.state).toMatchObject({ exitCode: 139, exitSignal: 11 });
  expect(it.run.state.reason).toBeUndefined();
});

test("a guest that does not power off is stopped, and its exit code stays", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  it.run.exit(3, 0);
  it.advance(14_999);
  expect(it.run.state.phase).toBe("running");
  it.advance(1);
  expect(it.run.state).toMatchObject({ phase: "ended", exitCode: 3 });
});

test("no init in time ends the machine and quotes the console", () => {
  const it = world();
  it.console = "Waiting for root";
  it.advance(29_990);
  expect(it.run.state).toMatchObject({
    phase: "ended",
    reason: "GUEST_INIT_TIMEOUT",
    message: "The guest's init did not answer within 30 s; its last console line: Waiting for root",
  });
});

test("a reset or a failed vCPU before EXIT is the guest's fault, with its last words", () => {
  const it = world();
  it.console = "Kernel panic - not syncing: no init";
  it.run.vmEvent(event("reset"));
  expect(it.run.state).toMatchObject({ phase: "ended", reason: "GUEST_FAULT" });
  expect(it.run.state.message).toEndWith(
    "; its last console line: Kernel panic - not syncing: no init",
  );
  const other = world();
  other.run.vmEvent(
    event("vcpu_failed", { detail: 17, value: 1, bytes: Uint8Array.of(0x0f, 0xc7) }),
  );
  expect(other.run.state.message).toBe(
    "vCPU 0 cannot go on (KVM exit 17, detail 0x1, instruction 0fc7)",
  );
});

test("what the guest's init says of a failed start becomes reason and exit code", () => {
  const cases: [number, Partial<RunState>][] = [
    [GUEST_ERROR.execNotFound, { reason: "EXEC_FAILED", exitCode: 127 }],
    [GUEST_ERROR.execDenied, { reason: "EXEC_FAILED", exitCode: 126 }],
    [GUEST_ERROR.user, { reason: "EXEC_FAILED" }],
    [GUEST_ERROR.cwd, { reason: "EXEC_FAILED" }],
    [GUEST_ERROR.rootfs, { reason: "GUEST_FAULT" }],
    [4711, { reason: "GUEST_FAULT" }],
  ];
  for (const [kind, expected] of cases) {
    const it = world();
    it.run.hello();
    it.run.error(kind, "what happened");
    expect(it.sent).toEqual(["run", "poweroff"]);
    it.run.vmEvent(event("power_off"));
    expect(it.run.state).toMatchObject({ phase: "ended", message: "what happened", ...expected });
    expect(it.run.state.exitCode).toBe(expected.exitCode as number);
  }
});

test("stop sends the image's stop signal, and kills when its time is over", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  expect(it.run.request(stop)).toBeNull();
  expect(it.run.state.phase).toBe("stopping");
  expect(it.sent).toEqual(["run", "signal 3"]);
  it.advance(4999);
  expect(it.run.state.phase).toBe("stopping");
  it.advance(1);
  expect(it.run.state).toMatchObject({ phase: "ended", exitCode: 137, exitSignal: 9 });
  expect(it.run.request(stop)).toMatchObject({ reason: "STATE_CONFLICT" });
});

test("a second stop replaces the first one's time and signal", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  it.run.request(stop);
  it.run.request({ ...stop, signal: 15, timeoutMs: 60_000 });
  it.advance(30_000);
  expect(it.run.state.phase).toBe("stopping");
  expect(it.sent).toEqual(["run", "signal 3", "signal 15"]);
  it.run.exit(0, 15);
  it.run.vmEvent(event("power_off"));
  expect(it.run.state).toMatchObject({ exitCode: 143, exitSignal: 15 });
});

test("a stop during booting ends the machine", () => {
  const it = world();
  expect(it.run.request(stop)).toBeNull();
  expect(it.run.state).toMatchObject({ phase: "ended", exitCode: 137 });
  expect(it.stops).toBe(1);
});

test("kill ends at once; after EXIT the exit code stays", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  it.run.exit(5, 0);
  expect(it.run.request({ id: 1, action: "kill" })).toBeNull();
  expect(it.run.state).toMatchObject({ phase: "ended", exitCode: 5 });
  it.run.kill();
  it.run.vmEvent(event("power_off"));
  expect(phases(it.states).filter((phase) => phase === "ended")).toHaveLength(1);
});

test("a signal is sent while the process runs and refused otherwise", () => {
  const it = world();
  const signal: VmmRequest = { id: 1, action: "signal", signal: 10 };
  expect(it.run.request(signal)).toMatchObject({ reason: "STATE_CONFLICT" });
  it.run.hello();
  it.run.started();
  expect(it.run.request(signal)).toBeNull();
  expect(it.sent).toEqual(["run", "signal 10"]);
});

test("a channel that closes early waits for how the guest goes, and says that", () => {
  // A kernel that goes down resets its devices, and so the channel, before it switches off.
  for (const [kind, message] of [
    ["power_off", "The guest powered off before its process ended"],
    ["reset", "The guest reset itself or crashed"],
  ] as const) {
    const it = world();
    it.run.hello();
    it.run.started();
    it.run.closed();
    it.advance(14_999);
    expect(it.run.state.phase).toBe("running");
    it.console = "reboot: machine going down";
    it.run.vmEvent(event(kind));
    expect(it.run.state).toMatchObject({
      phase: "ended",
      reason: "GUEST_FAULT",
      message: `${message}; its last console line: reboot: machine going down`,
    });
    expect([it.stops, it.timers.length]).toEqual([1, 0]);
  }
});

test("a channel that closes and a guest that stays: the channel is what there is to say", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  it.run.closed();
  it.advance(15_000);
  expect(it.run.state).toMatchObject({
    phase: "ended",
    reason: "GUEST_FAULT",
    message: "The guest's init closed its channel before its process ended",
  });
  // After an EXIT the channel's end is as it should be, and so is the guest's.
  const exited = world();
  exited.run.hello();
  exited.run.started();
  exited.run.exit(4, 0);
  exited.run.closed();
  exited.run.vmEvent(event("reset"));
  expect(exited.run.state).toMatchObject({ phase: "ended", exitCode: 4 });
  expect(exited.run.state.reason).toBeUndefined();
});

test("the end is announced after the last of the guest's output, and nothing comes between", () => {
  const it = world();
  it.holdsOutput = true;
  it.run.hello();
  it.run.started();
  it.run.vmEvent(event("power_off"));
  it.run.vmEvent(event("reset"));
  it.run.output("stdout", new TextEncoder().encode("last words"));
  it.run.exit(7, 0);
  expect(it.run.request(stop)).toMatchObject({ reason: "STATE_CONFLICT" });
  expect(phases(it.states)).toEqual(["booting", "running"]);
  it.drained();
  expect(it.run.state).toMatchObject({
    phase: "ended",
    message: "The guest powered off before its process ended",
  });
  expect([it.output, it.stops, it.timers.length]).toEqual(["last words", 1, 0]);
  expect(phases(it.states)).toEqual(["booting", "running", "ended"]);
});

test("a guest that breaks its init's protocol is ended at once", () => {
  const it = world();
  it.run.broken("a frame has 9 bytes");
  expect(it.run.state).toMatchObject({ phase: "ended", reason: "GUEST_FAULT" });
});

test("pause and resume hold the VM still; a stop in between lets it go on first", () => {
  const it = world();
  expect(it.run.request({ id: 1, action: "pause" })).toEqual({
    reason: "STATE_CONFLICT",
    message: "The machine is booting: pause needs it to be running",
  });
  it.run.hello();
  it.run.started();
  expect(it.run.request({ id: 2, action: "resume" })?.reason).toBe("STATE_CONFLICT");
  expect(it.run.request({ id: 3, action: "pause" })).toBeNull();
  expect(it.run.request({ id: 4, action: "signal", signal: 1 })?.reason).toBe("STATE_CONFLICT");
  expect(it.run.request({ id: 5, action: "resume" })).toBeNull();
  expect(it.run.request({ id: 6, action: "pause" })).toBeNull();
  expect(it.run.request(stop)).toBeNull();
  expect(it.vm).toEqual(["pause", "resume", "pause", "resume"]);
  const seen = ["booting", "running", "paused", "running", "paused", "running", "stopping"];
  expect(phases(it.states)).toEqual(seen);
  expect(it.sent).toEqual(["run", "signal 3"]);
});

test("shutdown asks the guest to switch itself off, and forces it when the time is over", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  expect(it.run.request({ id: 1, action: "shutdown", timeoutMs: 3000 })).toBeNull();
  expect(it.sent).toEqual(["run", "poweroff"]);
  expect(it.vm).toEqual(["power button"]);
  it.advance(3000);
  expect(it.run.state).toMatchObject({ phase: "ended", exitCode: 143, exitSignal: 15 });
  expect([it.stops, it.timers.length]).toEqual([1, 0]);
});

test("shutdown has the time it asked for, however long a guest takes", () => {
  const it = world();
  it.run.hello();
  it.run.started();
  it.run.request({ id: 1, action: "shutdown", timeoutMs: 60_000 });
  it.advance(59_999);
  expect(it.run.state.phase).toBe("stopping");
  it.run.vmEvent(event("power_off"));
  expect(it.run.state).toMatchObject({ phase: "ended", exitCode: 143 });
  expect(it.timers).toEqual([]);
});

test("a guest that boots is asked by its power button, and its init as soon as it is there", () => {
  const it = world();
  expect(it.run.request({ id: 1, action: "shutdown", timeoutMs: 90_000 })).toBeNull();
  expect(it.run.state.phase).toBe("stopping");
  expect(it.vm).toEqual(["power button"]);
  // The time for init to answer does not count any more.
  it.advance(spec.initTimeoutMs);
  expect(it.run.state.phase).toBe("stopping");
  it.run.hello();
  expect(it.sent).not.toContain("run");
  it.run.vmEvent(event("power_off"));
  expect(it.run.state).toMatchObject({ phase: "ended", exitCode: 143, exitSignal: 15 });
  expect(it.run.state.reason).toBeUndefined();
});

test("reset ends the run at once and without an exit code, in every living phase", () => {
  const reset: VmmRequest = { id: 9, action: "reset" };
  for (const prepare of [[], ["hello", "started"]] as const) {
    const it = world();
    for (const step of prepare) it.run[step]();
    expect(it.run.request(reset)).toBeNull();
    expect(it.run.state).toMatchObject({ phase: "ended", message: "The machine was reset" });
    expect([it.run.state.exitCode, it.run.state.reason, it.stops]).toEqual([
      undefined,
      undefined,
      1,
    ]);
    expect(it.run.request(reset)).toMatchObject({ reason: "STATE_CONFLICT" });
  }
});

test("the table says for every action in which phase it is allowed", () => {
  const phases_ = ["waiting", "booting", "running", "paused", "stopping", "ended"] as const;
  const rows = Object.entries(ALLOWED).map(([action, allowed]) => {
    const marks = phases_.map((phase) => (allowed.includes(phase) ? "x" : "."));
    return `${action} ${marks.join("")}`;
  });
  expect(rows).toEqual([
    "status xxxxxx",
    "metrics .xxxx.",
    "boot x.....",
    "pause ..x...",
    "resume ...x..",
    "balloon ..x...",
    "signal ..x.x.",
    "stop .xxxx.",
    "shutdown .xxxx.",
    "reset .xxxx.",
    "kill xxxxx.",
  ]);
});
