/** SIGKILL in the middle of pulls: the next start goes on with what is there, and gives the same image. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FakeRegistry, gzipLayer, type FakeImage } from "../kit/images/fake-registry.ts";
import { makeTar } from "../kit/images/layers.ts";
import { randomOf } from "../kit/images/stacks.ts";
import { runTool } from "../kit/images/run.ts";
import { TestStore } from "../kit/images/store.ts";

setDefaultTimeout(240_000);

const KILLS = 20;
const LAYERS = 5;
const LAYER_BYTES = 1_500_000;
const SEED = Number(process.env["LEVERET_KILL_SEED"] ?? 7);
const CHILD = join(import.meta.dir, "../kit/images/store-child.ts");

let scratch: string;
let registry: FakeRegistry;
let image: FakeImage;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "lev-kill-"));
  process.stderr.write(`kill: seed ${SEED} (LEVERET_KILL_SEED)\n`);
  registry = new FakeRegistry();
  const layers = Array.from({ length: LAYERS }, (_, index) => {
    const noise = Buffer.alloc(LAYER_BYTES);
    for (let at = 0, random = randomOf(SEED + index); at < noise.length; at += 4)
      noise.writeUInt32LE(random(2 ** 32 - 1), at);
    const data = noise.toString("latin1");
    return gzipLayer(makeTar([{ name: `file-${index}`, kind: "file", data }]));
  });
  image = registry.addImage("a", layers);
  // Slow enough that a kill finds every stage: about 25 MB/s for each blob.
  registry.hook = (request, path) =>
    path.includes("/blobs/") ? slowly(registry.serve(request)) : undefined;
});
afterAll(async () => {
  await registry[Symbol.asyncDispose]();
  await rm(scratch, { recursive: true, force: true });
});

async function slowly(response: Response): Promise<Response> {
  const bytes = new Uint8Array(await response.arrayBuffer());
  let at = 0;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller): Promise<void> {
      await Bun.sleep(2);
      controller.enqueue(bytes.subarray(at, at + 50_000));
      at += 50_000;
      if (at >= bytes.length) controller.close();
    },
  });
  return new Response(body, { status: response.status, headers: response.headers });
}

/** Starts a pull in a process of its own; `kind` is what dies by SIGKILL after `delayMs`. */
async function pullAndKill(dir: string, delayMs: number, kind: "agent" | "machine"): Promise<void> {
  const child = Bun.spawn([process.execPath, CHILD, dir, image.reference], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
    detached: true,
  });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  expect(new TextDecoder().decode(value)).toContain("pulling");
  await Bun.sleep(delayMs);
  // The whole group for the machine: whatever the agent had started dies in the same moment.
  // One that has ended by itself was quicker than its killer, and must have ended well.
  if (child.exitCode === null) process.kill(kind === "machine" ? -child.pid : child.pid, "SIGKILL");
  else expect(child.exitCode).toBe(0);
  await child.exited;
  await reader.cancel();
}

/** Complete blobs by hex, and how much of the others is there. */
function onDisk(dir: string): Map<string, number> {
  const blobs = join(dir, "blobs/sha256");
  return new Map(readdirSync(blobs).map((name) => [name, statSync(join(blobs, name)).size]));
}

/** A second pull over what the killed one left: nothing whole is fetched again. */
async function finish(dir: string, reference: string): Promise<void> {
  const had = onDisk(dir);
  const before = registry.blobHits().length;
  await using own = new TestStore({}, dir);
  const built = await own.store.ensure(image.reference);
  await runTool(["cmp", reference, built.squashfsPath]);
  for (const { path, range } of registry.blobHits().slice(before)) {
    const hex = path.split("sha256:")[1] ?? "";
    expect(had.has(hex)).toBe(false);
    const part = had.get(`${hex}.part`) ?? 0;
    expect(range).toBe(part > 0 ? `bytes=${part}-` : null);
  }
  expect(own.files("images").length).toBe(2);
  expect(own.files().filter((name) => /\.part$|\.tmp-/.test(name))).toEqual([]);
}

test(`${KILLS} kills at random moments: only unfinished blobs are fetched again, the image is the same`, async () => {
  await using whole = new TestStore({}, join(scratch, "whole"));
  const started = performance.now();
  const { squashfsPath } = await whole.store.ensure(image.reference);
  const fullMs = performance.now() - started;
  const random = randomOf(SEED);
  const partly: number[] = [];
  const inTime = (): number => partly.filter((count) => count > 0).length;
  // Kills that all came too late or too early would show nothing: more of them, then.
  const isEnough = (): boolean => partly.length >= KILLS && inTime() > KILLS / 4;
  for (let kill = 0; kill < 4 * KILLS && !isEnough(); kill += 1) {
    const dir = join(scratch, `killed-${kill}`);
    await pullAndKill(dir, random(Math.ceil(fullMs * 0.8)), kill % 2 === 0 ? "agent" : "machine");
    partly.push([...onDisk(dir).keys()].filter((name) => name.endsWith(".part")).length);
    await finish(dir, squashfsPath);
    await rm(dir, { recursive: true, force: true });
  }
  expect(inTime()).toBeGreaterThan(KILLS / 4);
});

test("a worker that dies fails its waiters, and the next pull goes on in a new one", async () => {
  await using whole = new TestStore({}, join(scratch, "whole"));
  const { squashfsPath } = await whole.store.ensure(image.reference);
  for (let kill = 0; kill < 3; kill += 1) {
    const dir = join(scratch, `worker-${kill}`);
    const pulling = Promise.withResolvers<void>();
    await using own = new TestStore({}, dir);
    const wait = own.store
      .ensure(image.reference, {
        onProgress: ({ bytesDone }) => {
          if (bytesDone > (kill + 1) * 1_000_000) pulling.resolve();
        },
      })
      .catch((error: unknown) => error);
    await pulling.promise;
    own.store.killWorker();
    expect(await wait).toMatchObject({ reason: "INTERNAL" });
    await finish(dir, squashfsPath);
  }
});
