/** Today's agent at a control plane that is one version older: no credits, no renewals. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { MachineId, OpId, SessionId } from "../../proto/ids.ts";
import { TestAgent } from "../kit/test-agent.ts";
import { until } from "../kit/until.ts";

setDefaultTimeout(60_000);

const PREVIOUS = join(import.meta.dir, "previous", "agent.proto");
const LINES = 600;

type Frame = { frame: string; result?: { op_id: string; error_reason: string } };
type Told = {
  port?: number;
  frame?: Frame;
  session?: { chunks: number; bytes: number; end: { error_reason: string } };
};

class PreviousHub implements AsyncDisposable {
  readonly told: Told[] = [];
  readonly #child = Bun.spawn(
    ["node", join(import.meta.dir, "kit", "grpc-hub.mjs"), JSON.stringify({ proto: PREVIOUS })],
    { stdin: "pipe", stdout: "pipe", stderr: "inherit" },
  );

  constructor() {
    void this.#read();
  }

  async send(frame: object): Promise<void> {
    await this.#child.stdin.write(`${JSON.stringify({ do: "send", frame })}\n`);
    await this.#child.stdin.flush();
  }

  hear<T>(what: string, pick: (told: Told) => T | undefined): Promise<T> {
    return until(what, () => this.told.map(pick).find((one) => one !== undefined));
  }

  async run(op: object): Promise<void> {
    const op_id = OpId.create();
    await this.send({ op: { op_id, ...op } });
    const result = await this.hear("the result", ({ frame }) =>
      frame?.result?.op_id === op_id ? frame.result : undefined,
    );
    expect(result.error_reason).toBe("");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
  }

  async #read(): Promise<void> {
    let text = "";
    const decoder = new TextDecoder();
    for await (const bytes of this.#child.stdout) {
      text += decoder.decode(bytes, { stream: true });
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) this.told.push(JSON.parse(line) as Told);
    }
  }
}

test("matrix: an agent works with a control plane one version older, all of a machine's output included", async () => {
  await using hub = new PreviousHub();
  const port = await hub.hear("the port", (told) => told.port);
  await using agent = await TestAgent.start(`127.0.0.1:${port}`);
  await hub.hear("Hello", ({ frame }) => (frame?.frame === "hello" ? true : undefined));
  const machine_id = MachineId.create();
  const spec = { image: "busybox", cpus: 1, memory_mib: 128, disk_mib: 64, hostname: "guest" };
  const cmd = ["count", String(LINES)];
  const start = { incarnation: 1, spec: { ...spec, cmd, has_cmd: true } };
  await hub.run({ machine_id, generation: 1, start });
  await until("all of its output", () => agent.driver.running === 0);
  await hub.send({
    open_session: { session_id: SessionId.create(), machine_id, logs: { follow: false } },
  });
  const session = await hub.hear("the session's end", (told) => told.session);
  expect(session.end.error_reason).toBe("");
  const expected = Array.from({ length: LINES }, (_, line) => `line ${line}\n`).join("").length;
  expect(session.bytes).toBe(expected);
  await hub.run({ machine_id, generation: 2, destroy: {} });
  await hub.hear("a heartbeat", ({ frame }) => (frame?.frame === "heartbeat" ? true : undefined));
  // One stream all the while.
  expect(hub.told.filter(({ frame }) => frame?.frame === "hello")).toHaveLength(1);
});
