/** Waits for a condition, never for time. */
const POLL_MS = 5;
const DEADLINE_MS = 20_000;

/** Resolves with the first value that is neither false, null nor undefined; throws at the deadline. */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  deadlineMs: number = DEADLINE_MS,
): Promise<Exclude<T, false | null | undefined>> {
  const by = Date.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value !== false && value !== null && value !== undefined)
      return value as Exclude<T, false | null | undefined>;
    if (Date.now() > by) throw new Error(`Waited ${deadlineMs} ms for: ${what}`);
    await Bun.sleep(POLL_MS);
  }
}
