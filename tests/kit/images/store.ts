/** An image store of a test's own, and what lies on its disk. */
import { existsSync, mkdtempSync, readdirSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageStore } from "../../../agent/images/builder.ts";
import type { RegistryConfig } from "../../../agent/images/types.ts";
import { systemClock } from "../../../lib/clock.ts";
import { silentLog } from "../../../lib/log.ts";

/** Short enough for a test, long enough for a busy machine. */
export const QUICK = { answerMs: 1_500, idleMs: 1_500, resolveMs: 10_000 };

export class TestStore implements AsyncDisposable {
  readonly dir: string;
  readonly store: ImageStore;
  readonly #own: boolean;
  constructor(config: Partial<RegistryConfig> = {}, dir?: string) {
    this.#own = dir === undefined;
    this.dir = dir ?? mkdtempSync(join(tmpdir(), "lev-store-"));
    this.store = new ImageStore({
      dir: this.dir,
      config: { mirrors: [], insecure: [], ...config },
      log: silentLog(),
      clock: systemClock,
    });
  }

  files(below = ""): string[] {
    const dir = join(this.dir, below);
    return existsSync(dir)
      ? readdirSync(dir, { recursive: true, encoding: "utf8" }).toSorted()
      : [];
  }

  /** Names that must not be there after a failed build: finished images and half ones. */
  leftovers(): string[] {
    const images = this.files("images").map((name) => `images/${name}`);
    return [...images, ...this.files().filter((name) => /\.part$|\.tmp-/.test(name))];
  }

  bytes(): number {
    return this.files().reduce((sum, name) => {
      const stats = statSync(join(this.dir, name));
      return stats.isFile() ? sum + stats.blocks * 512 : sum;
    }, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.store.close();
    if (this.#own) await rm(this.dir, { recursive: true, force: true });
  }
}

/** The reason of a failed build; "built" when it did not fail. */
export async function reasonOf(wait: Promise<unknown>): Promise<string> {
  return await wait.then(
    () => "built",
    (error: unknown) => String((error as { reason?: unknown }).reason ?? error),
  );
}
