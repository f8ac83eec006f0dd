/**
 * An agent in a process of its own, to be killed: real journal, real supervision,
 * VMM processes without VMs. `bun tests/kit/agent-child.ts HUB_ADDR DIR`. Prints
 * "up" when it has adopted what it found.
 */
import { join } from "node:path";
import { KvmDriver } from "../../agent/runtime/kvm-driver.ts";
import { startAgent } from "../../agent/server.ts";
import { systemClock } from "../../lib/clock.ts";
import { silentLog } from "../../lib/log.ts";
import { shutdownSignal } from "../../lib/signals.ts";
import { FakeImages } from "./fake-images.ts";
import { FAKE_KERNELS } from "./test-agent.ts";

const [addr = "", dir = ""] = process.argv.slice(2);
const log = silentLog();
const signal = shutdownSignal();
await using _agent = await startAgent({
  log,
  images: new FakeImages(),
  kernels: FAKE_KERNELS,
  driver: new KvmDriver({
    dir: join(dir, "machines"),
    clock: systemClock,
    log,
    command: [process.execPath, join(import.meta.dir, "fake-vmm.ts")],
    kvmDevice: null,
  }),
  config: {
    controlPlaneAddr: addr,
    // "0" in tests whose link is real: they bring a join token along.
    insecureLink: process.env["LEVERET_INSECURE_LINK"] !== "0",
    dir,
    capacity: { cpus: 64, memoryMib: 65_536, diskMib: 65_536 },
  },
});
process.stdout.write("up\n");
await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
