/** The host's disk is full: the journal takes no op, and what runs goes on. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { MachineState } from "../../proto/gen/leveret/v1/agent_pb.js";
import { MachineId } from "../../proto/ids.ts";
import { FakeHub } from "../kit/fake-hub.ts";
import { argv, destroyOp, startOp } from "../kit/ops.ts";
import { SmallDisk } from "../kit/small-disk.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(60_000);

const why = SmallDisk.whyNot();

test.skipIf(why !== null)(
  `matrix: disk full on the host: an op that cannot be journalled is refused and not acked, and is done when there is room${why === null ? "" : ` (${why})`}`,
  async () => {
    using disk = new SmallDisk(16);
    await using hub = await FakeHub.start();
    await using agent = await TestAgent.start(hub.addr, {
      config: { dir: join(disk.dir, "agent") },
    });
    const stream = await hub.stream();
    const id = MachineId.create();
    const ended = (opId: string) =>
      until("the result", () => stream.results.find((one) => one.opId === opId));
    const first = startOp(id, 1, argv("idle"));
    stream.send({ case: "op", value: first });
    expect((await ended(first.opId)).errorReason).toBe("");

    disk.fill();
    // What the journal has allocated takes a few more.
    const refused = await until("a refusal", async () => {
      const op = startOp(MachineId.create(), 1, argv("echo", "x".repeat(20_000)));
      stream.send({ case: "op", value: op });
      const { errorReason } = await ended(op.opId);
      return errorReason === "DISK_FULL" ? op : null;
    });
    const acks = stream.received.filter(
      ({ case: kind, value }) => kind === "ack" && value.opId === refused.opId,
    );
    expect(acks).toEqual([]);
    // What ends by itself is written all the same, and told.
    agent.driver.run(id)?.finish({ exitCode: 7, exitSignal: 0 });
    const last = await until("its end", () =>
      stream.statuses.find(
        ({ machineId, state }) => machineId === id && state === MachineState.STOPPED,
      ),
    );
    expect(last.exitCode).toBe(7);
    disk.empty();
    const destroy = destroyOp(id, 2);
    stream.send({ case: "op", value: destroy });
    expect(await ended(destroy.opId)).toMatchObject({
      errorReason: "",
      status: { state: MachineState.DESTROYED },
    });
    const again = startOp(refused.machineId, 2, argv("idle"));
    stream.send({ case: "op", value: again });
    expect((await ended(again.opId)).errorReason).toBe("");
  },
);
