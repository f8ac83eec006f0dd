/** The control plane's own disk: its PostgreSQL on a small file system that fills up. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import type { Machine } from "../../proto/rest.ts";
import { PlaneChild } from "../kit/plane-child.ts";
import { SmallDisk } from "../kit/small-disk.ts";
import { until } from "../kit/until.ts";
import { FakeAgent } from "./kit/fake-agent.ts";
import { call, createMachine, machineOf, untilState } from "./kit/plane.ts";

setDefaultTimeout(120_000);

const SIZE_MIB = 160;

const why = SmallDisk.whyNot();

test.skipIf(why !== null)(
  `matrix: disk full on the control plane: a typed error, the links stay, and it goes on when there is room${why === null ? "" : ` (${why})`}`,
  async () => {
    using disk = new SmallDisk(SIZE_MIB);
    const plane = await PlaneChild.start("", join(disk.dir, "cp"));
    try {
      await using agent = await FakeAgent.connect(plane.grpcAddr);
      const kept = await createMachine(plane);
      agent.runStart(await agent.op(1));
      await untilState(plane, kept.id, "started");

      disk.fill();
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

      disk.empty();
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
