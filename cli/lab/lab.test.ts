import { expect, test } from "bun:test";
import { labAgentEnvironment } from "./agent.ts";
import { insertionOrder } from "./modules.ts";
import { decodeFrames, encodeFrame, encodeInt, EXEC_FRAME, type ExecFrame } from "./protocol.ts";
import { shellQuote } from "./qemu.ts";
import { statePath } from "./state.ts";

const MODULES_DEP = `kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs/netfs.ko
kernel/net/9p/9pnet.ko:
kernel/fs/netfs/netfs.ko: kernel/fs/fscache/fscache.ko
kernel/fs/fscache/fscache.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/net/9p/9pnet.ko
`;

test("modules come after what they depend on, each once", () => {
  const order = insertionOrder(MODULES_DEP, ["9p", "virtio_rng"]);
  expect(order.map((path) => path.split("/").pop())).toEqual([
    "fscache.ko",
    "netfs.ko",
    "9pnet.ko",
    "9p.ko",
    "virtio-rng.ko.xz",
  ]);
});

test("a module that the kernel does not have is an error", () => {
  expect(() => insertionOrder(MODULES_DEP, ["kvm-amd"])).toThrow("kvm-amd");
});

async function decode(chunks: Uint8Array[]): Promise<ExecFrame[]> {
  async function* source(): AsyncGenerator<Uint8Array> {
    yield* chunks;
  }
  const frames: ExecFrame[] = [];
  for await (const { type, payload } of decodeFrames(source()))
    frames.push({ type, payload: Buffer.from(payload) });
  return frames;
}

test("frames survive any cut of the stream", async () => {
  const raw = Buffer.concat([
    encodeFrame(EXEC_FRAME.stdout, Buffer.from("hello")),
    encodeFrame(EXEC_FRAME.stderr, Buffer.alloc(0)),
    encodeFrame(EXEC_FRAME.exit, encodeInt(-1)),
  ]);
  const whole = await decode([raw]);
  expect(whole.map((frame) => frame.type)).toEqual([1, 2, 3]);
  expect(whole[2]?.payload.readInt32LE(0)).toBe(-1);
  for (let cut = 1; cut < raw.length; cut += 1)
    expect(await decode([raw.subarray(0, cut), raw.subarray(cut)])).toEqual(whole);
});

test("a frame beyond the limit is refused before it is kept", async () => {
  const header = Buffer.alloc(5);
  header.writeUInt32LE(0xffff_ffff, 1);
  expect(await decode([header]).catch(String)).toContain("longer than");
});

test("the shell reads back what was quoted", async () => {
  const text = `it's "a" $HOME \`x\` \\ \n end`;
  const shell = Bun.spawn(["sh", "-c", `printf %s ${shellQuote(text)}`]);
  expect(await new Response(shell.stdout).text()).toBe(text);
});

test("the agent in the lab dials the outside's loopback by the name it has inside", () => {
  const inside = labAgentEnvironment({ controlPlane: "127.0.0.1:8090", joinToken: "lvj_x" });
  expect(inside["CONTROL_PLANE_GRPC_ADDR"]).toBe("10.0.2.2:8090");
  expect(inside["LEVERET_JOIN_TOKEN"]).toBe("lvj_x");
  expect(inside["LEVERET_INSECURE_LINK"]).toBeUndefined();
  const far = labAgentEnvironment({ controlPlane: "cp.example:1", joinToken: null });
  expect(far["LEVERET_INSECURE_LINK"]).toBe("1");
  expect(far["CONTROL_PLANE_GRPC_ADDR"]).toBe("cp.example:1");
  expect(() => labAgentEnvironment({ controlPlane: "8090", joinToken: null })).toThrow("HOST:PORT");
});

test("a lab's name cannot leave its directory", () => {
  expect(statePath("/c/lab", "a-1")).toBe("/c/lab/a-1.json");
  for (const name of ["../x", "a/b", "", "A", ".."])
    expect(() => statePath("/c/lab", name)).toThrow("no lab name");
});
