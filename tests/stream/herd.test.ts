/** Many agents at once: when the control plane is told to end, and when it is back. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import type { AgentContext } from "../../agent/context.ts";
import { runLink } from "../../agent/link/client.ts";
import { silentLog } from "../../lib/log.ts";
import { LvError } from "../../proto/errors.ts";
import {
  Goodbye_Reason,
  type HubFrame,
  HubFrameSchema,
} from "../../proto/gen/leveret/v1/agent_pb.js";
import { FakeImages } from "../kit/fake-images.ts";
import { createDatabase } from "../kit/postgres.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { until } from "../kit/until.ts";
import { Scheduler, SimProcess } from "../sim/time.ts";
import { FakeAgent } from "./kit/fake-agent.ts";

setDefaultTimeout(60_000);

test("matrix: SIGTERM with 50 live agents: it ends in time, and asks them back at different times", async () => {
  const dir = mkdtempSync(join(tmpdir(), "leveret-herd-"));
  try {
    await using plane = await PlaneChild.start(await createDatabase(), dir);
    const agents = await Promise.all(
      Array.from({ length: 50 }, () => FakeAgent.connect(plane.grpcAddr)),
    );
    const began = performance.now();
    await plane.end();
    expect(performance.now() - began).toBeLessThan(8_000);
    await until("all agents to notice", () => agents.every(({ ended }) => ended));
    const waits = agents.map(({ frames }) => {
      const last = frames.at(-1)?.frame;
      expect(last).toMatchObject({ case: "goodbye", value: { reason: Goodbye_Reason.SHUTDOWN } });
      return last?.case === "goodbye" ? last.value.reconnectAfterMs : 0;
    });
    expect(new Set(waits).size).toBeGreaterThan(25);
    expect(Math.max(...waits) - Math.min(...waits)).toBeGreaterThan(500);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

const AGENTS = 1_000;
/** How long the control plane is away. */
const AWAY_MS = 5_000;
const CAPACITY = { cpus: 1, memoryMib: 1, diskMib: 1 };

/** A hub in virtual time that answers Welcome, or nothing while it is away. */
class Herd {
  readonly scheduler = new Scheduler();
  readonly process = new SimProcess("agents");
  readonly began = this.scheduler.now;
  /** When each stream was welcomed, since the start. */
  readonly welcomes: number[] = [];
  open = 0;
  #away = Promise.withResolvers<never>();

  constructor() {
    this.#away.promise.catch(() => undefined);
  }

  crash(): void {
    const broken = this.#away;
    this.#away = Promise.withResolvers<never>();
    this.#away.promise.catch(() => undefined);
    broken.reject(new LvError("LINK_LOST", "the control plane is gone"));
  }

  async *serve(up: boolean, signal: AbortSignal): AsyncGenerator<HubFrame> {
    await this.scheduler.sleep(1, this.process);
    if (!up) throw new LvError("LINK_LOST", "nobody listens");
    this.welcomes.push(this.scheduler.now - this.began);
    this.open += 1;
    const over = Promise.withResolvers<never>();
    signal.addEventListener("abort", () => over.reject(new Error("left")), { once: true });
    try {
      yield create(HubFrameSchema, {
        epoch: 1n,
        frame: { case: "welcome", value: { hostId: "", heartbeatIntervalMs: 1e9 } },
      });
      await Promise.race([this.#away.promise, over.promise]);
    } finally {
      this.open -= 1;
    }
  }

  async run(untilMs: number): Promise<void> {
    while (await this.scheduler.step(this.began + untilMs)) continue;
  }
}

function contextOf(herd: Herd, isUp: () => boolean): AgentContext {
  const fleet = {
    images: new FakeImages(),
    listen: () => () => undefined,
    inventory: () => [],
    unackedResults: () => [],
  };
  return {
    config: { controlPlaneAddr: "sim:1", capacity: CAPACITY, labels: {}, dir: tmpdir() },
    clock: herd.scheduler.clockOf(herd.process),
    log: silentLog(),
    fleet,
    dial: () => ({
      client: {
        connect: (_frames: unknown, { signal }: { signal: AbortSignal }) =>
          herd.serve(isUp(), signal),
      },
      [Symbol.dispose]: () => undefined,
    }),
  } as unknown as AgentContext;
}

test("matrix: 1,000 agents reconnect at once: all are back within 30 s, and never many in one moment", async () => {
  const herd = new Herd();
  const leave = new AbortController();
  let up = true;
  const links = Array.from({ length: AGENTS }, () =>
    runLink(
      contextOf(herd, () => up),
      leave.signal,
    ),
  );
  await herd.run(10_000);
  expect(herd.open).toBe(AGENTS);
  up = false;
  herd.crash();
  await herd.run(10_000 + AWAY_MS);
  expect(herd.open).toBe(0);
  up = true;
  await herd.run(10_000 + AWAY_MS + 30_000);
  expect(herd.open).toBe(AGENTS);
  const perTenth = new Map<number, number>();
  for (const at of herd.welcomes.slice(AGENTS)) {
    const tenth = Math.floor(at / 100);
    perTenth.set(tenth, (perTenth.get(tenth) ?? 0) + 1);
  }
  // Without jitter all come in the same millisecond.
  expect(Math.max(...perTenth.values())).toBeLessThan(AGENTS / 10);
  leave.abort(new LvError("SHUTTING_DOWN", "the test is over"));
  await Promise.all(links);
});
