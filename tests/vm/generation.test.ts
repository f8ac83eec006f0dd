/** VMGenID on real Linux (see dev-kernel.test.ts), driven without a VMM process. */
import { expect, test } from "bun:test";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { renewGeneration } from "../../agent/vmm/generation.ts";
import { buildMachine } from "../../agent/vmm/machine.ts";
import { openShim } from "../../native/ffi.ts";
import { DEV_KERNEL_ARGS, makeSpec, TemporaryDirectory, writePlainInitrd } from "./kit.ts";

const kernelPath = process.env["LEVERET_DEV_KERNEL"] ?? "";
const missing =
  kernelPath === "" ? "LEVERET_DEV_KERNEL is not set" : existsSync("/dev/kvm") ? "" : "/dev/kvm";
if (missing !== "") process.stderr.write(`tests/vm/generation: skipped: ${missing}\n`);

test.skipIf(missing !== "")(
  "a new generation makes the guest reseed, once each",
  async () => {
    using temporary = new TemporaryDirectory();
    const path = join(temporary.path, "console.log");
    const consoleFd = openSync(path, "w");
    const { vm } = buildMachine({
      shim: openShim(),
      spec: makeSpec({
        kernelPath,
        initrdPath: writePlainInitrd(join(temporary.path, "initrd")),
        kernelArgs: `${DEV_KERNEL_ARGS} loglevel=6 leveret.hello`,
      }),
      consoleFd,
      vsockPath: join(temporary.path, "vsock.sock"),
    });
    const said = (): string => readFileSync(path, "utf8");
    const reseeds = (): number =>
      said().split("crng reseeded due to virtual machine fork").length - 1;
    try {
      vm.start();
      // The test's own time-out bounds these.
      while (!said().includes("leveret-init")) await Bun.sleep(5);
      expect(reseeds()).toBe(0);
      for (const n of [1, 2]) {
        renewGeneration(vm);
        while (reseeds() < n) await Bun.sleep(5);
        expect(reseeds()).toBe(n);
      }
    } finally {
      vm.destroy();
      closeSync(consoleFd);
    }
  },
  30_000,
);
