/** A small file system that can be filled up. Needs root. */
import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class SmallDisk implements Disposable {
  readonly dir = mkdtempSync(join(tmpdir(), "leveret-full-"));
  readonly #filler = join(this.dir, "filler");

  /** Throws with what mount(8) says. */
  constructor(sizeMib: number) {
    const options = `size=${sizeMib}m,mode=755`;
    const { status, stderr } = spawnSync("mount", [
      "-t",
      "tmpfs",
      "-o",
      options,
      "tmpfs",
      this.dir,
    ]);
    if (status === 0) return;
    rmSync(this.dir, { recursive: true, force: true });
    throw new Error(`cannot mount a small disk: ${String(stderr).trim()}`);
  }

  /** Null when it can be had here; else why not. */
  static whyNot(): string | null {
    try {
      using _ = new SmallDisk(1);
      return null;
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  /** Takes what room there is. */
  fill(): void {
    const fd = openSync(this.#filler, "w");
    const zeros = new Uint8Array(1 << 16);
    try {
      while (statfsSync(this.dir).bavail > 0) writeSync(fd, zeros);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    } finally {
      closeSync(fd);
    }
  }

  empty(): void {
    rmSync(this.#filler, { force: true });
  }

  [Symbol.dispose](): void {
    spawnSync("umount", ["-l", this.dir]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}
