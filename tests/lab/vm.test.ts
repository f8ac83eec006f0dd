/**
 * The VMM under the real kvm_amd of the lab, with Debian's kernel: what /dev/kvm of a
 * machine without hardware virtualisation cannot show. Files of tests/vm run inside.
 *
 * The labs have one CPU each. In labs with two (QEMU 7.2, TCG threads in parallel) guests
 * with several vCPUs now and then triple-fault or stall as they boot. QEMU's own microvm
 * does so, too: 2 of 17 boots, against 0 of 28 with one CPU. The price: vCPUs take turns,
 * so this shows that they come up, not that they run at the same time. Two labs at once
 * make use of a second CPU here.
 */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { captureInLab } from "../../cli/lab/exec.ts";
import { LAB_DEFAULTS, startLab, stopLab } from "../../cli/lab/lab.ts";
import { BUN, CHECKOUT } from "../../cli/paths.ts";

const LIMIT_MS = 900_000;

const SUITES = [
  {
    name: "sizes",
    what: "Debian's kernel is at home with 1, 2 and 8 vCPUs, little memory and memory beyond the 3 GiB hole",
    files: ["stock-kernel"],
    memoryMib: LAB_DEFAULTS.memoryMib,
    passes: 9,
  },
  {
    name: "data",
    what: "Debian's kernel loses nothing on disks, networks, vsock and the balloon",
    files: ["disk", "network", "vsock", "balloon"],
    memoryMib: 2_048,
    passes: 15,
  },
];

function kernelPackage(): { kernelPath: string; initrdPath: string } {
  const made = Bun.spawnSync([BUN, join(CHECKOUT, "agent/kernel/main.ts"), "--print"]);
  expect({ code: made.exitCode, stderr: made.stderr.toString() }).toMatchObject({ code: 0 });
  const { kernelPath, initrdPath }: Record<string, unknown> = JSON.parse(made.stdout.toString());
  return { kernelPath: String(kernelPath), initrdPath: String(initrdPath) };
}

for (const { name: suite, what, files, memoryMib, passes } of SUITES)
  test.concurrent(
    what,
    async () => {
      const { kernelPath, initrdPath } = kernelPackage();
      const name = `vm-${suite}-${process.pid}`;
      const lab = await startLab({ ...LAB_DEFAULTS, name, cpus: 1, memoryMib });
      try {
        const paths = files.map((file) => join(CHECKOUT, `tests/vm/${file}.test.ts`));
        const result = await captureInLab(lab, [BUN, "test", "--timeout=600000", ...paths], {
          LEVERET_GUEST_KERNEL: kernelPath,
          LEVERET_GUEST_INITRD: initrdPath,
          // On the lab's disk: its memory is for guests.
          TMPDIR: "/run/leveret",
        });
        expect(result.stderr).toContain("\n 0 fail\n");
        expect(result.stderr).toContain(`\n ${passes} pass\n`);
        expect(result.code).toBe(0);
      } finally {
        await stopLab(name);
      }
    },
    LIMIT_MS,
  );
