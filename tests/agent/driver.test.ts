import { join } from "node:path";
import { FakeDriver } from "../../agent/runtime/fake-driver.ts";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { describeDriver } from "./driver-suite.ts";

const request = (argv: string[]) => ({
  kernelPath: "/dev/null",
  initrdPath: null,
  kernelArgs: "",
  squashfsPath: "/dev/null",
  process: { argv, env: [], cwd: "/", user: "", stopSignal: 15 },
});

describeDriver("fake-driver", { make: (dir) => new FakeDriver({ dir }), request });

describeDriver("kvm-driver with a VMM process that has no VM", {
  make: (dir) =>
    new KvmDriver({
      dir,
      clock: systemClock,
      log: silentLog(),
      command: [process.execPath, join(import.meta.dir, "..", "kit", "fake-vmm.ts")],
      kvmDevice: null,
    }),
  request,
});
