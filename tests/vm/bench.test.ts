/** A benchmark that is told to stop, on real Linux (see dev-kernel.test.ts). */
import { expect } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { until } from "../kit/until.ts";
import { TemporaryDirectory } from "./kit.ts";
import { linuxGuests } from "./linux-guests.ts";

const { guestTest } = linuxGuests("bench", ["/usr/bin/qemu-system-x86_64"], "development");

const MAIN = join(import.meta.dir, "../bench/main.ts");

/** Processes that name the directory; pgrep leaves itself out. */
function processesOf(directory: string): string[] {
  const { stdout } = Bun.spawnSync(["pgrep", "-f", directory]);
  return stdout.toString().split("\n").filter(Boolean);
}

for (const [part, signal] of [
  ["boot", "SIGTERM"],
  ["idle", "SIGINT"],
] as const)
  guestTest(
    `${signal} ends bench vmm ${part} with all its machines and files`,
    async () => {
      using temporary = new TemporaryDirectory();
      const bench = Bun.spawn([process.execPath, MAIN, "vmm", "--parts", part], {
        env: { ...process.env, TMPDIR: temporary.path },
        stdio: ["ignore", "ignore", "pipe"],
      });
      await until("a machine is there", () => processesOf(temporary.path).length > 0);
      bench.kill(signal);
      expect(await bench.exited).toBe(143);
      expect(processesOf(temporary.path)).toEqual([]);
      expect(readdirSync(temporary.path)).toEqual([]);
    },
    60_000,
  );
