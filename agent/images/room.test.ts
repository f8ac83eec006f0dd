import { expect, test } from "bun:test";
import { NoRoomError, Room } from "./room.ts";

const never = new AbortController().signal;

/** A disk with a floor of 10 bytes. */
function disk(freeBytes: number, freeable = 0) {
  const state = { freeBytes, freeable, asked: [] as number[], waits: 0 };
  const room = new Room({
    usable: () => Promise.resolve({ freeBytes: state.freeBytes, floorBytes: 10 }),
    free: (bytes) => {
      state.asked.push(bytes);
      state.freeBytes += Math.min(bytes, state.freeable);
      return Promise.resolve();
    },
  });
  const take = (bytes: number, signal = never) =>
    room.take({ image: "x", fetchBytes: bytes - 1, writeBytes: 1 }, signal, () => {
      state.waits += 1;
    });
  return { state, take };
}

test("two builds that fit one by one and not together go one after the other", async () => {
  const { state, take } = disk(110);
  const first = await take(60);
  let begun = false;
  const second = take(60).then((held) => {
    begun = true;
    return held;
  });
  // A third one that would fit keeps its place in the queue.
  const third = take(10);
  await Bun.sleep(0);
  expect([begun, state.waits]).toEqual([false, 1]);
  first.release();
  first.release();
  (await second).release();
  (await third).release();
});

test("what a build has used already is not counted twice", async () => {
  const { state, take } = disk(110);
  const first = await take(60);
  first.use(50);
  state.freeBytes -= 50;
  const second = await take(40);
  expect([first.leftBytes, second.leftBytes, state.waits]).toEqual([10, 40, 0]);
});

test("the collector is asked for what is lacking, beside what is promised", async () => {
  const { state, take } = disk(70, 1_000);
  await take(50);
  await take(50);
  expect(state.asked).toEqual([40]);
});

test("what fits with nobody else there either is refused, and who is stopped does not wait", async () => {
  const { take } = disk(100);
  expect(await take(91).catch((error: unknown) => error)).toBeInstanceOf(NoRoomError);
  const held = await take(90);
  const stop = new AbortController();
  const waiting = take(90, stop.signal).catch((error: unknown) => String(error));
  stop.abort(new Error("stopped"));
  expect(await waiting).toBe("Error: stopped");
  held.release();
  (await take(90)).release();
});
