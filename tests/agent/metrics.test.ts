/** A machine's metrics from its host to REST, to Prometheus and to the terminal. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { MachineMetrics } from "../../proto/rest.ts";
import { failure } from "../kit/failure.ts";
import { AUTHORIZATION, TEST_TOKEN } from "../kit/token.ts";
import { World } from "../kit/world.ts";

const MAIN = join(import.meta.dir, "..", "..", "cli", "main.ts");

test("a running machine is counted, in its project only; one that does not run is not", async () => {
  await using world = await World.create({ mtls: true });
  const { id } = await world.run(["count"], { name: "web", guest: { cpus: 2 } });
  await world.untilState(id, "started");
  const metrics = await world.client.metrics("web");
  expect(metrics).toMatchObject({
    instance_id: `${id}.1`,
    cpu_us: 1_000,
    resident_bytes: 256 * 2 ** 20,
    balloon: null,
    vcpus: [{ exits_mmio: 1 }, { exits_mmio: 2 }],
    devices: [
      { name: "blk0", requests: 3, bytes_in: 4_096 },
      { name: "blk1", requests: 0 },
    ],
  });
  expect(Date.now() - metrics.time).toBeLessThan(60_000);

  const url = `${world.plane.httpUrl}/v1/machines/web/metrics`;
  const get = (path: string, headers = AUTHORIZATION): Promise<Response> =>
    fetch(`${url}${path}`, { headers });
  const scraped = await get("?format=prometheus");
  expect(scraped.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
  expect(await scraped.text()).toContain(
    `leveret_machine_exits_total{machine="${id}",name="web",vcpu="1",reason="mmio"} 2\n`,
  );
  expect((await get("?format=xml")).status).toBe(400);
  expect((await fetch(url)).status).toBe(401);
  const made = await fetch(`${world.plane.httpUrl}/v1/projects`, {
    method: "POST",
    headers: { ...AUTHORIZATION, "content-type": "application/json" },
    body: JSON.stringify({ name: "other" }),
  });
  expect(made.status).toBe(201);
  const stranger = await get("", { ...AUTHORIZATION, "leveret-project": "other" } as never);
  expect(stranger.status).toBe(404);

  const env = { ...process.env, LEVERET_URL: world.plane.httpUrl, LEVERET_TOKEN: TEST_TOKEN };
  const lev = async (...argv: string[]): Promise<string> => {
    const cmd = [process.execPath, "--no-env-file", MAIN, "metrics", ...argv];
    const child = Bun.spawn({ cmd, env, stdin: "ignore", stdout: "pipe" });
    return new Response(child.stdout).text();
  };
  expect(await lev("web")).toMatch(/^DEVICE +REQUESTS .*\nblk0 +3 +0 +0 +4\.0 KiB +0 B /m);
  expect(MachineMetrics.parse(JSON.parse(await lev("--json", "web"))).vcpus).toHaveLength(2);

  await world.client.stop(id);
  await world.untilState(id, "stopped");
  const error = await failure(world.client.metrics(id));
  expect(error.reason).toBe("STATE_CONFLICT");
}, 60_000);
