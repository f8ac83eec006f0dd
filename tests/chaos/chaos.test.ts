/** The short version; `bun run chaos` takes half an hour. */
import { expect, test } from "bun:test";
import { runChaos } from "./chaos.ts";
import { whyNoNamespaces } from "./network.ts";

const why = whyNoNamespaces();

test.skipIf(why !== null)(
  `two minutes of faults break no promise${why === null ? "" : ` (no namespaces: ${why})`}`,
  async () => {
    const story: string[] = [];
    const result = await runChaos(2, 4_711, (line) => void story.push(line)).catch(
      (error: unknown) => {
        throw new Error(`${String(error)}\n${story.join("\n")}`);
      },
    );
    expect(result.machines).toBeGreaterThan(5);
    expect(result.faults).toBeGreaterThan(5);
  },
  400_000,
);
