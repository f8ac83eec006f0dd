/** Looks into a squashfs as the kernel of this machine sees it. */
import { mkdir, rmdir } from "node:fs/promises";
import { runTool } from "./run.ts";

/** Why the kernel of this machine cannot be asked; null = it can. */
export async function squashfsMountProblem(): Promise<string | null> {
  if (process.getuid?.() !== 0) return "mounting needs root";
  const known = (await Bun.file("/proc/filesystems").text()).includes("squashfs");
  const hasLoops = await Bun.file("/dev/loop-control")
    .stat()
    .then(
      () => true,
      () => false,
    );
  return known && hasLoops ? null : "this kernel has no squashfs or no loop devices";
}

/** Mounts read-only at `at` while `look` runs. */
export async function withMounted<T>(
  squashfs: string,
  at: string,
  look: (at: string) => T | Promise<T>,
): Promise<T> {
  await mkdir(at);
  try {
    await runTool(["mount", "-t", "squashfs", "-o", "loop,ro", squashfs, at]);
    try {
      return await look(at);
    } finally {
      await runTool(["umount", at]);
    }
  } finally {
    await rmdir(at);
  }
}
