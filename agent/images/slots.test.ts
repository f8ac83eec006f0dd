import { expect, test } from "bun:test";
import { Slots } from "./slots.ts";

const never = new AbortController().signal;

test("no more than the slots at a time, in order, and a failure gives its slot on", async () => {
  const slots = new Slots(2);
  const gates = Array.from({ length: 5 }, () => Promise.withResolvers<void>());
  const begun: number[] = [];
  const all = gates.map(({ promise }, index) =>
    slots.run(never, async () => {
      begun.push(index);
      await promise;
      if (index === 1) throw new Error("one failed");
    }),
  );
  await Promise.resolve();
  expect(begun).toEqual([0, 1]);
  gates[1]?.resolve();
  expect(await all[1]?.catch((error: unknown) => String(error))).toBe("Error: one failed");
  expect(begun).toEqual([0, 1, 2]);
  for (const gate of gates) gate.resolve();
  await Promise.allSettled(all);
  expect(begun).toEqual([0, 1, 2, 3, 4]);
});

test("who is stopped while waiting leaves the queue and takes no slot", async () => {
  const slots = new Slots(1);
  const gate = Promise.withResolvers<void>();
  const first = slots.run(never, () => gate.promise);
  const stop = new AbortController();
  const second = slots.run(stop.signal, async () => "never");
  const third = slots.run(never, async () => "third");
  stop.abort(new Error("stopped"));
  expect(await second.catch((error: unknown) => String(error))).toBe("Error: stopped");
  gate.resolve();
  await first;
  expect(await third).toBe("third");
});

test("who waits is told its place whenever that changes", async () => {
  const slots = new Slots(1);
  const gate = Promise.withResolvers<void>();
  const first = slots.run(never, () => gate.promise);
  const stop = new AbortController();
  const places: number[][] = [[], [], []];
  const waits = places.map((seen, index) =>
    slots.run(
      index === 0 ? stop.signal : never,
      async () => index,
      (place) => seen.push(place),
    ),
  );
  expect(places).toEqual([[1], [2], [3]]);
  stop.abort(new Error("stopped"));
  expect(await waits[0]?.catch((error: unknown) => String(error))).toBe("Error: stopped");
  gate.resolve();
  await first;
  expect(await Promise.all(waits.slice(1))).toEqual([1, 2]);
  expect(places.map((seen) => seen.at(-1))).toEqual([1, 1, 1]);
});
