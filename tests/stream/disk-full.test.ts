/** The control plane's own disk: its PostgreSQL on a small file system that fills up. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Machine } from "../../proto/rest.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, machineOf, untilState } from "./kit/plane.ts";

setDefaultTimeout(120_000);

const SIZE_MIB = 160;

/** Null when it is not allowed here. */
function mountSmall(): { dir: string; [Symbol.dispose](): void } | null {
  const dir = mkdtempSync(join(tmpdir(), "leveret-full-"));
  const options = `size=${SIZE_MIB}m,mode=755`;
  const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", dir]);
  const unmount = (): void => {
    if (status === 0) spawnSync("umount", ["-l", dir]);
    rmSync(dir, { recursive: true, force: true });
  };
  if (status === 0) return { dir, [Symbol.dispose]: unmount };
  unmount();
  return null;
}

/** Takes what room there is. */
function fill(path: string): void {
  const fd = openSync(path, "w");
  const zeros = new Uint8Array(1 << 16);
  try {
    while (statfsSync(path).bavail > 0) writeSync(fd, zeros);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  } finally {
    closeSync(fd);
  }
}

const probe = mountSmall();
probe?.[Symbol.dispose]();

test.skipIf(probe === null)(
  "matrix: disk full on the control plane: a typed error, the links stay, and it goes on when there is room",
  async () => {
    using disk = mountSmall();
    if (disk === null) throw new Error("it was allowed a moment ago");
    const plane = await PlaneChild.start("", join(disk.dir, "cp"));
    try {
      await using agent = await FakeAgent.connect(plane.grpcAddr);
      const kept = await createMachine(plane);
      agent.runStart(await agent.op(1));
      await untilState(plane, kept.id, "started");

      const filler = join(disk.dir, "filler");
      fill(filler);
      // What is allocated already takes a few more rows.
      const made: string[] = [];
      const refused = await until("a refusal", async () => {
        const body = { config: { image: "busybox", metadata: { padding: "x".repeat(2_000) } } };
        const reply = await call(plane, "POST", "/v1/machines", body);
        if (reply.status !== 201) return reply;
        made.push((reply.body as Machine).id);
        return null;
      });
      expect(refused).toMatchObject({ status: 507, body: { error: { reason: "DISK_FULL" } } });
      // Reads go on, and nothing that was told is untrue.
      expect((await machineOf(plane, kept.id)).state).toBe("started");
      const ended = { state: MachineState.STOPPED, generation: 1n, incarnation: 1n };
      agent.status(kept.id, { ...ended, exited: true, exitCode: 5 });
      expect(agent.ended).toBe(false);

      rmSync(filler);
      const after = await until("a machine", async () => {
        const reply = await call(plane, "POST", "/v1/machines", { config: { image: "busybox" } });
        return reply.status === 201 ? (reply.body as Machine) : null;
      });
      expect(await untilState(plane, kept.id, "stopped")).toMatchObject({ exit_code: 5 });
      expect(agent.ended).toBe(false);
      const all = (await call(plane, "GET", "/v1/machines")).body as Machine[];
      expect(all.map(({ id }) => id).toSorted()).toEqual([kept.id, ...made, after.id].toSorted());
    } finally {
      await plane.end();
    }
  },
);
