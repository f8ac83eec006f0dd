import { expect, test } from "bun:test";
import { failure } from "../../tests/kit/failure.ts";
import { Semaphore } from "./semaphore.ts";

const never = new AbortController().signal;

test("no more than the limit work at once, in order", async () => {
  const semaphore = new Semaphore(2);
  const order: number[] = [];
  let now = 0;
  let most = 0;
  await Promise.all(
    [0, 1, 2, 3, 4].map((number) =>
      semaphore.run(never, async () => {
        order.push(number);
        most = Math.max(most, (now += 1));
        await Promise.resolve();
        now -= 1;
      }),
    ),
  );
  expect(most).toBe(2);
  expect(order).toEqual([0, 1, 2, 3, 4]);
});

test("a waiter that is aborted leaves the queue; the place goes to the next", async () => {
  const semaphore = new Semaphore(1);
  const gate = Promise.withResolvers<void>();
  const first = semaphore.run(never, () => gate.promise);
  const controller = new AbortController();
  const second = failure(semaphore.run(controller.signal, () => Promise.resolve()));
  const third = semaphore.run(never, () => Promise.resolve("third"));
  controller.abort(new Error("no longer"));
  expect((await second).message).toContain("no longer");
  gate.resolve();
  await first;
  expect(await third).toBe("third");
});

test("work that throws gives its place back", async () => {
  const semaphore = new Semaphore(1);
  await failure(semaphore.run(never, () => Promise.reject(new Error("broken"))));
  expect(await semaphore.run(never, () => Promise.resolve(1))).toBe(1);
});
