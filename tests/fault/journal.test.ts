/**
 * An agent that is killed at each write of its journal in a machine's whole life: started,
 * stopped, started again and destroyed. The control plane sends again what was not acked,
 * and nothing else; the next agent has to do the rest.
 */
import { Database } from "bun:sqlite";
import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listProcesses } from "../../agent/runtime/proc.ts";
import type { Hello, Op } from "../../proto/gen/leveret/v1/agent_pb.js";
import { MachineId } from "../../proto/ids.ts";
import { FakeHub, type HubStream } from "../kit/fake-hub.ts";
import { argv, destroyOp, startOp, stopOp } from "../kit/ops.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(300_000);

const KIT = join(import.meta.dir, "..", "kit");
/** More than a life has; the sweep ends at the first one that nobody dies of. */
const WRITES_MAX = 40;

class Life implements AsyncDisposable {
  readonly hub: FakeHub;
  readonly dir = mkdtempSync(join(tmpdir(), "lev-die-"));
  deaths = 0;
  readonly #dieAt: string;
  #child: Bun.Subprocess<"ignore", "ignore", "inherit"> | null = null;
  /** Streams of the agents before this one. */
  #earlier = 0;

  constructor(hub: FakeHub, dieAt: string) {
    this.hub = hub;
    this.#dieAt = dieAt;
    hub.onFrame = (stream, frame) => {
      if (frame.case === "result")
        stream.send({
          case: "resultAck",
          value: { $typeName: "leveret.v1.ResultAck", opId: frame.value.opId },
        });
    };
  }

  /** The open stream of the agent that lives, or of the next one. */
  async stream(): Promise<HubStream> {
    if (this.#child === null) this.#spawn();
    else if (this.#dead) {
      this.deaths += 1;
      this.#spawn();
    }
    const found = await until("a stream or a death", () => {
      const last = this.hub.streams.slice(this.#earlier).at(-1);
      if (this.#dead) return { last: undefined };
      return last !== undefined && !last.over && last.hello !== null ? { last } : null;
    });
    return found.last ?? this.stream();
  }

  /** Sends the op until it is acked, and waits for its Result, whoever says it. */
  async run(op: Op): Promise<void> {
    const all = (): HubStream[] => this.hub.streams;
    const acked = (): boolean =>
      all().some(({ received }) =>
        received.some(({ case: kind, value }) => kind === "ack" && value.opId === op.opId),
      );
    const done = () =>
      all()
        .flatMap(({ results }) => results)
        .find(({ opId }) => opId === op.opId);
    for (let tries = 0; done() === undefined; tries += 1) {
      if (tries > 5) throw new Error("the agent dies again and again");
      const stream = await this.stream();
      if (!acked()) stream.send({ case: "op", value: op });
      await until("the result or a death", () => done() !== undefined || this.#dead);
    }
    expect(done()?.errorReason).toBe("");
  }

  /** Until an agent has written that its last Result is acked; what the next one says. */
  async settled(): Promise<Hello | null> {
    await until("every Result is acked in the journal", async () => {
      await this.stream();
      return this.#owed() === 0;
    });
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    this.#child = null;
    return (await this.stream()).hello;
  }

  /** Results that the journal has no ack of. */
  #owed(): number {
    using journal = new Database(join(this.dir, "journal.sqlite"), { readonly: true });
    const rows = journal.query("SELECT 1 FROM ops WHERE state <> 'acked'").all();
    return rows.length;
  }

  vmms(): number[] {
    return listProcesses()
      .filter(({ argv: words }) => words.at(-1)?.startsWith(`${this.dir}/machines/`))
      .map(({ pid }) => pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    for (const pid of this.vmms()) process.kill(pid, "SIGKILL");
    await this.hub[Symbol.asyncDispose]();
    rmSync(this.dir, { recursive: true, force: true });
  }

  get #dead(): boolean {
    return this.#child !== null && (this.#child.exitCode ?? this.#child.signalCode) !== null;
  }

  #spawn(): void {
    this.#earlier = this.hub.streams.length;
    const first = this.#earlier === 0;
    this.#child = Bun.spawn({
      cmd: [
        process.execPath,
        ...(first ? ["--preload", join(KIT, "die-at-write.ts")] : []),
        join(KIT, "agent-child.ts"),
        this.hub.addr,
        this.dir,
      ],
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, LEVERET_TEST_DIE: this.#dieAt },
    });
  }
}

/** Returns whether the agent died at that write. */
async function liveAndDie(dieAt: string): Promise<boolean> {
  await using life = new Life(await FakeHub.start(), dieAt);
  const id = MachineId.create();
  await life.run(startOp(id, 1, argv("idle")));
  expect(life.vmms()).toHaveLength(1);
  await life.run(stopOp(id, 2));
  expect(life.vmms()).toEqual([]);
  await life.run(startOp(id, 3, argv("idle")));
  const running = life.vmms();
  expect(running).toHaveLength(1);
  await life.stream();
  expect(life.vmms()).toEqual(running);
  await life.run(destroyOp(id, 4));
  expect(life.vmms()).toEqual([]);
  expect(readdirSync(join(life.dir, "machines"))).toEqual([]);
  expect((await life.settled())?.inventory).toEqual([]);
  return life.deaths > 0;
}

for (const when of ["before", "after"])
  test(`matrix: agent SIGKILL at every journal write: ${when} the write, each op is done once and nothing is left`, async () => {
    let write = 1;
    while (await liveAndDie(`${when} ${write}`)) {
      write += 1;
      if (write > WRITES_MAX) throw new Error("there is no end of writes");
    }
    expect(write).toBeGreaterThan(15);
  });
