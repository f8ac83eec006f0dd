/** `bun run cp`: runs a control plane until SIGTERM or SIGINT. */
import { shutdownSignal } from "../lib/signals.ts";
import { LvError } from "../proto/errors.ts";
import { startControlPlane } from "./server.ts";

const signal = shutdownSignal();
try {
  await using plane = await startControlPlane();
  if (plane.firstToken !== null)
    process.stderr.write(`cp: the first admin token, shown this once: ${plane.firstToken}\n`);
  const asked = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  const failed = plane.failed.then(() => {
    throw new LvError("DATABASE_UNAVAILABLE", "The embedded PostgreSQL ended unexpectedly");
  });
  await Promise.race([asked, failed]);
} catch (error) {
  const known = LvError.from(error);
  process.stderr.write(`cp: ${known.message}\n`);
  if (known.reason === "INTERNAL") process.stderr.write(`${Bun.inspect(known.cause ?? known)}\n`);
  process.exitCode = 1;
}
// Nothing may keep the process: whoever waits for its end waits for the data directory.
process.exit();
