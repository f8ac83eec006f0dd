/**
 * A step of putting a machine together. `down` undoes what `up` of the same context
 * did, as far as it got; it is safe twice and safe when `up` never ran. What an
 * earlier run of the machine left (its scratch disk, its output) is not its business.
 */
import type { VmmNetwork } from "../../../proto/vmm.ts";
import type { RunRequest } from "../driver.ts";
import type { Warm } from "../pool.ts";
import type { VmmProcess } from "../supervise.ts";

export type HookContext = {
  readonly request: RunRequest;
  /** The machine's directory. */
  readonly dir: string;
  readonly signal: AbortSignal;
  /** What this start made, so that `down` removes no more than that. */
  madeDirectory: boolean;
  madeScratch: boolean;
  /** The machine's own user and group; null = it runs as the agent's. */
  uid: number | null;
  /** What the network hook set up; null = the machine has none. */
  network: { device: VmmNetwork; resolvConf: string } | null;
  /** A process that was started ahead; null = the start is a cold one. */
  warm: Warm | null;
  run: VmmProcess | null;
};

export interface Hook {
  readonly name: string;
  up(context: HookContext): Promise<void>;
  down(context: HookContext): Promise<void>;
}
