/** The image cache on a disk that runs full: what goes, in what order, and what never does. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync } from "node:fs";
import { rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ImageBuilder } from "../../agent/images/build.ts";
import type { DiskRoom } from "../../agent/images/collector.ts";
import type { BuiltImage } from "../../agent/images/types.ts";
import { systemClock } from "../../lib/clock.ts";
import { FakeRegistry, gzipLayer } from "../kit/images/fake-registry.ts";
import { makeTar } from "../kit/images/layers.ts";
import { reasonOf } from "../kit/images/store.ts";

setDefaultTimeout(60_000);

const KIB = 1 << 10;
const PLENTY: DiskRoom = { freeBytes: 2 ** 40, totalBytes: 2 ** 41 };

let scratch: string;
let registry: FakeRegistry;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), "lev-collect-"));
  registry = new FakeRegistry();
});
afterAll(async () => {
  await registry[Symbol.asyncDispose]();
  await rm(scratch, { recursive: true, force: true });
});

/** An image of about 100 KiB, and one name of it. */
function push(name: string): string {
  const bytes = crypto.getRandomValues(new Uint8Array(50 * KIB));
  const more = crypto.getRandomValues(new Uint8Array(50 * KIB));
  const data = Buffer.concat([bytes, more]).toString("latin1");
  return registry.addImage(name, [gzipLayer(makeTar([{ name, kind: "file", data }]))]).reference;
}

class Host implements AsyncDisposable {
  readonly builder: ImageBuilder;
  readonly dir: string;
  room: DiskRoom = PLENTY;
  constructor(name: string) {
    this.dir = join(scratch, name);
    const config = { mirrors: [], insecure: [] };
    const room = async (): Promise<DiskRoom> => this.room;
    this.builder = new ImageBuilder(this.dir, config, systemClock, () => {}, room);
  }

  async pull(reference: string, hoursAgo: number): Promise<BuiltImage> {
    this.room = PLENTY;
    const image = await this.builder.ensure(reference, () => {});
    const at = Date.now() / 1000 - hoursAgo * 3600;
    await utimes(image.squashfsPath.replace(".squashfs", ".json"), at, at);
    return image;
  }

  /** Removes until about this many KiB are freed. */
  async squeeze(kib: number): Promise<string[]> {
    // Nine percent are free; the low mark is at fifteen.
    const totalBytes = (kib * KIB) / 0.06;
    this.room = { freeBytes: totalBytes * 0.09, totalBytes };
    return (await this.builder.collect()).images;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.builder.close();
  }
}

test("nothing goes while the disk has room", async () => {
  await using host = new Host("roomy");
  const image = await host.pull(push("roomy"), 100);
  expect(await host.builder.collect()).toEqual({ images: [], blobs: 0, freedBytes: 0 });
  expect(existsSync(image.squashfsPath)).toBe(true);
});

test("blobs go first, then the image that was not used for longest; a used one comes to the end", async () => {
  await using host = new Host("order");
  const [a, b, c] = [push("order-a"), push("order-b"), push("order-c")];
  const old = await host.pull(a, 30);
  const older = await host.pull(b, 40);
  const used = await host.pull(c, 50);
  expect(await host.squeeze(200)).toEqual([]);
  await host.pull(c, 20);
  expect(await host.squeeze(150)).toEqual([older.digest]);
  expect(existsSync(older.squashfsPath)).toBe(false);
  expect(
    (await (await host.builder.stock()).list()).map(({ digest }) => digest).toSorted(),
  ).toEqual([old.digest, used.digest].toSorted());
  expect((await host.pull(b, 0)).digest).toBe(older.digest);
});

test("what a machine needs, what is pinned and what was just used stays, however full the disk", async () => {
  await using host = new Host("roots");
  const rooted = await host.pull(push("rooted"), 90);
  const pinned = await host.pull(push("pinned"), 90);
  const fresh = await host.pull(push("fresh"), 0);
  const loose = await host.pull(push("loose"), 80);
  await (await host.builder.stock()).pin(pinned.digest, true);
  host.builder.setRoots([rooted.digest]);
  expect(await host.squeeze(4_000)).toEqual([loose.digest]);
  for (const { squashfsPath } of [rooted, pinned, fresh])
    expect(existsSync(squashfsPath)).toBe(true);
  await (await host.builder.stock()).pin(pinned.digest, false);
  host.builder.setRoots([]);
  expect((await host.squeeze(4_000)).toSorted()).toEqual([rooted.digest, pinned.digest].toSorted());
});

test("a pull makes its own room out of what nobody needs, and is refused when that is not enough", async () => {
  await using host = new Host("pressed");
  const old = await host.pull(push("pressed-old"), 90);
  let asked = 0;
  // Room appears when the old image is gone.
  const room = async (): Promise<DiskRoom> => {
    asked += 1;
    const freeBytes = existsSync(old.squashfsPath) ? 100 * KIB : 2_000 * KIB;
    return { freeBytes, totalBytes: 3_000 * KIB };
  };
  const config = { mirrors: [], insecure: [] };
  const pressed = new ImageBuilder(host.dir, config, systemClock, () => {}, room);
  expect(await reasonOf(pressed.ensure(push("pressed-new"), () => {}))).toBe("built");
  expect(existsSync(old.squashfsPath)).toBe(false);
  expect(asked).toBe(2);
  const before = registry.blobHits().length;
  const never = async (): Promise<DiskRoom> => ({ freeBytes: 100 * KIB, totalBytes: 3_000 * KIB });
  const full = new ImageBuilder(host.dir, config, systemClock, () => {}, never);
  expect(await reasonOf(full.ensure(push("pressed-more"), () => {}))).toBe("DISK_FULL");
  expect(registry.blobHits().length).toBe(before);
  await pressed.close();
  await full.close();
});

test("an image that is asked for while it is being removed is there for who asked", async () => {
  await using host = new Host("race");
  const reference = push("race");
  for (let round = 0; round < 20; round += 1) {
    await host.pull(reference, 90);
    const [image] = await Promise.all([
      host.builder.ensure(reference, () => {}),
      host.squeeze(4_000),
    ]);
    expect(existsSync(image.squashfsPath)).toBe(true);
    expect((await (await host.builder.stock()).list()).length).toBe(1);
  }
});
