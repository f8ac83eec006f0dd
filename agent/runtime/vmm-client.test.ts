import { afterEach, beforeEach, describe, expect, test, setDefaultTimeout } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { VmmStatus } from "../../proto/vmm.ts";
import { failure } from "../../tests/kit/failure.ts";
import { until } from "../../tests/kit/until.ts";
import { VmmClient } from "./vmm-client.ts";

setDefaultTimeout(30_000);

const STATUS = { machineId: "m", incarnation: 1, pid: 2, pidStartTime: 3, phase: "running" };

describe("the control socket, against a VMM that may be hostile", () => {
  let dir = "";
  let path = "";
  let listener: Bun.UnixSocketListener<undefined>;
  let peer: Bun.Socket | null = null;
  let heard: VmmStatus[] = [];
  let onLine: (line: string) => void = () => undefined;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "lev-ctl-"));
    path = join(dir, "control.sock");
    heard = [];
    peer = null;
    listener = Bun.listen({
      unix: path,
      socket: {
        open: (socket) => void (peer = socket),
        data: (_socket, bytes) => onLine(bytes.toString()),
      },
    });
  });
  afterEach(() => {
    listener.stop(true);
    rmSync(dir, { recursive: true, force: true });
  });
  const connect = (): Promise<VmmClient> =>
    VmmClient.connect(path, "m", (status) => void heard.push(status));
  const say = async (text: string): Promise<void> => {
    const socket = await until("the connection", () => peer);
    // The socket takes what it has room for.
    let rest = Buffer.from(text);
    await until("all to be written", () => {
      rest = rest.subarray(socket.write(rest));
      return rest.length === 0;
    });
  };

  test("a push that comes in pieces is one push", async () => {
    const client = await connect();
    const line = `${JSON.stringify({ status: STATUS })}\n`;
    await say(line.slice(0, 10));
    await say(line.slice(10) + line);
    await until("both", () => heard.length === 2);
    client.close();
    await client.closed;
  });

  test("a request resolves at its own reply", async () => {
    const client = await connect();
    onLine = (line) => {
      const { id } = JSON.parse(line) as { id: number };
      peer?.write(`{"id":999,"ok":true}\n{"id":${id},"ok":true}\n`);
    };
    await client.request({ action: "kill" });
    client.close();
  });

  test("metrics are what the VMM answers, once they are in order", async () => {
    const client = await connect();
    const vcpu = { exitsPio: 1, exitsMmio: 2, exitsIntr: 3, exitsOther: 4 };
    const metrics = { vcpus: [vcpu], devices: [] };
    onLine = (line) => {
      const { id, action } = JSON.parse(line) as { id: number; action: string };
      expect(action).toBe("metrics");
      peer?.write(`${JSON.stringify({ id, ok: true, metrics: id === 1 ? metrics : { a: 1 } })}\n`);
    };
    expect(await client.metrics()).toEqual(metrics);
    expect((await failure(client.metrics())).reason).toBe("VMM_FAULT");
    client.close();
  });

  test("a refusal keeps its reason", async () => {
    const client = await connect();
    onLine = () => peer?.write('{"id":1,"ok":false,"reason":"STATE_CONFLICT","message":"no"}\n');
    const error = await failure(client.request({ action: "stop", signal: 0, timeoutMs: 1 }));
    expect(error).toMatchObject({ reason: "STATE_CONFLICT", message: "no" });
    client.close();
  });

  test("a request whose VMM goes away is refused at once", async () => {
    const client = await connect();
    onLine = () => peer?.end();
    expect((await failure(client.request({ action: "kill" }))).reason).toBe("VMM_FAULT");
  });

  test.each([
    ["not JSON", "hello\n"],
    ["not an object", "7\n"],
    ["another machine's status", `${JSON.stringify({ status: { ...STATUS, machineId: "x" } })}\n`],
    ["a line without end", "x".repeat((1 << 20) + 1)],
  ])("%s closes the connection", async (_name, text) => {
    const client = await connect();
    await say(text);
    await client.closed;
    expect(heard).toEqual([]);
  });

  test("nobody listens: the connection is refused", async () => {
    const connecting = VmmClient.connect(join(dir, "none.sock"), "m", () => undefined);
    expect((await failure(connecting)).reason).toBe("INTERNAL");
  });
});
