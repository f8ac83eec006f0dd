/** Whether a run that ended by itself is followed by another, and when. Pure. */
import type { MachineConfig } from "../../proto/rest.ts";

export type Ended = {
  /** Null: the run ended without its process having ended, or never began. */
  exitCode: number | null;
  failed: boolean;
  /** How long it ran; null when it never did. */
  ranMs: number | null;
};

const BASE_MS = 1_000;
const CAP_MS = 60_000;
/** A run of this length is a success: the counting begins anew. */
export const SETTLED_MS = 60_000;

export type Restart = { afterMs: number; restarts: number };

/** `restarts` = those in a row before this end. Null: it stays ended. */
export function nextRestart(
  policy: MachineConfig["restart"] | undefined,
  restarts: number,
  ended: Ended,
): Restart | null {
  // Machines of an earlier version have no policy in their stored config.
  if (policy === undefined || policy.policy === "no") return null;
  const succeeded = !ended.failed && ended.exitCode === 0;
  const before = (ended.ranMs ?? 0) >= SETTLED_MS ? 0 : restarts;
  if (policy.policy === "on-failure" && (succeeded || before >= policy.max_retries)) return null;
  // The first one at once: most ends are not a loop.
  const afterMs = before === 0 ? 0 : Math.min(CAP_MS, BASE_MS * 2 ** Math.min(before - 1, 16));
  return { afterMs, restarts: before + 1 };
}
