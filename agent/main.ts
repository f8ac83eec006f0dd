import { shutdownSignal } from "../lib/signals.ts";
import { LvError } from "../proto/errors.ts";
import { startAgent } from "./server.ts";

const EXIT_DEADLINE_MS = 5_000;
const signal = shutdownSignal();

try {
  await using agent = await startAgent();
  await Promise.race([
    agent.finished,
    new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true })),
  ]);
  // Machines do not need us: what still hangs after this long may hang alone.
  setTimeout(() => process.exit(0), EXIT_DEADLINE_MS).unref();
} catch (error) {
  const failure = LvError.from(error);
  const detail =
    failure.reason === "INTERNAL" && error instanceof Error ? `: ${error.message}` : "";
  process.stderr.write(`leveret agent: ${failure.message}${detail}\n`);
  process.exitCode = 1;
}
