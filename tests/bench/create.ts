/**
 * `bun run bench create`: from POST to the answer of a wait for `started`, with the
 * fake driver: REST, embedded database, link, agent, and all the way back. One at a time.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Client } from "../../cli/client.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { TEST_TOKEN } from "../kit/token.ts";
import { until } from "../kit/until.ts";
import { type Figure, makeFigure, quantile } from "./report.ts";

export const CREATE_USAGE = "create [--machines N]";

const WARM_UP = 50;

type Say = (line: string) => void;

export async function benchCreate(args: string[], say: Say): Promise<Figure[]> {
  const { values } = parseArgs({
    args,
    options: { machines: { type: "string", default: "500" } },
  });
  const dir = mkdtempSync(join(tmpdir(), "lev-bench-"));
  // As root the control plane runs its PostgreSQL as another user, who has to get in.
  chmodSync(dir, 0o755);
  try {
    await using plane = await PlaneChild.start("", dir);
    await using _agent = await TestAgent.start(plane.grpcAddr);
    const client = new Client({ url: plane.httpUrl, token: TEST_TOKEN });
    await until("the host", async () => (await client.hosts())[0]?.state === "ready");
    const times: number[] = [];
    for (let number = 0; number < WARM_UP + Number(values.machines); number += 1) {
      const from = performance.now();
      const { id } = await client.createMachine({
        config: { image: "busybox", init: { cmd: ["idle"] }, guest: { memory_mb: 64 } },
      });
      await client.wait(id, ["started"], 30);
      if (number >= WARM_UP) times.push(performance.now() - from);
      await client.remove(id);
    }
    say(`${times.length} machines, the slowest took ${Math.max(...times).toFixed(0)} ms`);
    const figure = (name: string, q: number): Figure =>
      makeFigure({ bench: "create", figure: name, unit: "ms" }, [quantile(times, q)], null);
    await plane.end();
    return [figure("create_started_p50_ms", 0.5), figure("create_started_p99_ms", 0.99)];
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
